//! In-memory ports of the data path, for tests and benchmarks (feature `testing`). The log is `sluse_schema::testing::MemoryLog`.

pub mod decoder;
pub mod device_store;
pub mod seeded;
pub mod sender;
pub mod target_store;

pub use decoder::FnDecoder;
pub use device_store::MemoryDeviceStore;
pub use seeded::SeededThread;
pub use sender::{Arrived, Reply, ScriptedSenders};
pub use target_store::MemoryTargetStore;
