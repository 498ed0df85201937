//! The command line, in reading order: which commands there are (`args`), and what each does.

mod admin;
mod args;
mod backup;
mod database;
mod logging;
mod restore;
mod rotate;
mod serve;

pub use args::main;
