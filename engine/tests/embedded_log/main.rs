//! The embedded log against the port's conformance suite, against a model, against kills and against failing writes.
//! Invariants: I1 (a position moves only together with its outputs) and the log's part of I8 (steps are fenced).

mod batches;
mod common;
mod conformance;
mod faults;
mod kill;
mod model;
mod power_cut;
mod retention;
