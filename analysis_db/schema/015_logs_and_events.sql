-- Runs that share one import, and how events were found and how severe they are.
ALTER TABLE data.training_run ADD COLUMN imported_as VARCHAR;
