"""Frames in, plotly figures out: no Streamlit and no SQL in here."""
