//! The store against a real PostgreSQL: every port's promises, outages, and the program around it.
//! One private PostgreSQL serves the tests that run at the same time; each test has a database of its own.

mod changes;
mod devices;
mod fixture;
mod gateways;
mod leader;
mod log_switch;
mod outage;
mod program;
mod rotation;
mod settings;
mod states;
mod targets;
