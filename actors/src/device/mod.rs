//! Device stage, the device's side: one actor per active device around a pure machine.
//!
//! Reading order: [`message`], [`actor`], then the machines [`machine`] (repeats, state), [`window`], [`repeat`], [`event`],
//! [`outputs`] (which deliveries an uplink makes).

pub mod actor;
pub mod event;
pub mod machine;
pub mod message;
pub mod outputs;
pub mod repeat;
pub mod window;

pub use actor::{DeviceActor, DeviceContext};
pub use machine::DeviceMachine;
pub use message::{Configure, HandleUplink, MergeState, Mode, Outcome, Passivate, TakeState, Uplink, UplinkDone};
pub use window::WindowPolicy;
