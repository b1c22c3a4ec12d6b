"""One script per page; `app/main.py` names them. A page holds no SQL and draws no figure itself.

The folder is not called pages: Streamlit takes a folder of that name beside main.py for a second
navigation of its own, and a link to a page then skips main.py when the server has just started.
"""
