//! Tests of the target stage: the machine against a simulated partition, and the actors on in-memory ports with paused time.

mod administration;
mod again;
mod faults;
mod rig;
mod stage;
mod switching;
