//! Adapters and wiring of Sluse: what of the outside world the data path and the API are connected to.

pub mod send;
pub mod source;
pub mod store;
