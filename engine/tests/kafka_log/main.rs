//! The Kafka log on real brokers: the port's conformance suite, brokers that are killed, nodes that are thought dead, topics and
//! settings that contradict. Invariants: I1 (a position moves only together with its outputs), I8 (whoever lost a partition writes nothing).

#[path = "../edges/certificates.rs"]
mod certificates;
mod conformance;
mod faults;
mod fixture;
mod group;
#[path = "../../../loadtest/src/kafka_process.rs"]
mod kafka_process;
mod own;
mod settings;
