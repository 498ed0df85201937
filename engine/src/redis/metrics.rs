//! Metrics of what nodes share over Redis.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// 1 while Redis answers, 0 while this node goes on alone.
pub const CONNECTED: &str = "sluse_redis_connected";
/// Questions put to Redis. Labels: `call`, `outcome` (`ok`, `away`).
pub const CALLS: &str = "sluse_redis_calls_total";
/// Lines of the live tail between nodes. Label: `direction` (`sent`, `received`, `dropped`).
pub const TAIL_LINES: &str = "sluse_redis_tail_lines_total";

/// Registers help texts and units.
pub fn describe() {
    describe_gauge!(CONNECTED, Unit::Count, "1 while Redis answers, 0 while this node goes on alone");
    describe_counter!(CALLS, Unit::Count, "Questions put to Redis, by call and outcome");
    describe_counter!(TAIL_LINES, Unit::Count, "Lines of the live tail between nodes, by direction");
}

/// There is a Redis to talk to: from now on its gauge is shown.
pub(super) fn begin() {
    gauge!(CONNECTED).set(0.0);
}

pub(super) fn call_done(call: &'static str, is_ok: bool) {
    counter!(CALLS, "call" => call, "outcome" => if is_ok { "ok" } else { "away" }).increment(1);
}

pub(super) fn tail_lines(direction: &'static str, num: u64) {
    counter!(TAIL_LINES, "direction" => direction).increment(num);
}
