//! The edges against real counterparts: a Mosquitto as ChirpStack's broker and as a target, HTTP and HTTPS receivers that follow a
//! script byte by byte, brokers that misbehave on purpose. One binary; every server on a free port, in a temporary directory.

#[path = "edges/broker.rs"]
mod broker;
#[path = "edges/certificates.rs"]
mod certificates;
#[path = "edges/cost.rs"]
mod cost;
#[path = "edges/http_targets.rs"]
mod http_targets;
#[path = "edges/intake.rs"]
mod intake;
#[path = "edges/mqtt_targets.rs"]
mod mqtt_targets;
#[path = "edges/receiver.rs"]
mod receiver;
#[path = "edges/session_owner.rs"]
mod session_owner;
#[path = "edges/source.rs"]
mod source;
#[path = "edges/targets.rs"]
mod targets;
