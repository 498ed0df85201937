//! Reload: what administration changed reaches running actors, by signal and by a periodic scan.

pub mod feed;
pub mod reloader;

pub use reloader::{Reloader, Subscriber};
