-- What a new Postgres is given: a role for the service and one for MLflow, each with databases that the other cannot
-- open. Passwords come from the files that libpq reads them from (*:*:*:ROLE:PASSWORD).
\set ON_ERROR_STOP on
\set autocompress `cut -d: -f5 "$SECRETS/autocompress_pgpass"`
\set mlflow `cut -d: -f5 "$SECRETS/mlflow_pgpass"`
CREATE ROLE autocompress LOGIN PASSWORD :'autocompress';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE autocompress OWNER autocompress;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE autocompress, mlflow, mlflow_auth FROM PUBLIC;
