-- Run once by PostgreSQL's image when its volume is empty. Sluse's own database is made by POSTGRES_DB.
create role chirpstack with login password 'chirpstack';
create database chirpstack with owner chirpstack;
\c chirpstack
create extension pg_trgm;
