//! Envelopes of the systems that send to Sluse: parsed borrowed and typed, tolerant of what real networks send.

pub mod chirpstack;
