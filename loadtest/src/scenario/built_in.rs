//! The scenarios that the program brings along.

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// Scenarios that are compiled in, by name.
        pub const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*];
    };
}

built_in![
    "city",
    "steady",
    "smoke",
    "burst",
    "slow_target",
    "dead_target",
    "dead_and_hanging",
    "catch_up",
    "flapping_target",
    "unauthorized_target",
    "refusing_target",
    "hanging_target",
    "throttling_target",
    "big_answers",
    "http_only",
    "mqtt_target",
    "one_device_hot",
    "restart",
    "kill",
    "one_bad_record",
    "down_target",
    "failing_target",
    "forbidden_target",
    "rewound_target",
    "postgres_kill",
    "postgres_away",
    "mosquitto_restart",
    "mosquitto_kill",
    "full_disk",
    "clock_step",
    "kafka",
    "kafka_steady",
    "kafka_catch_up",
    "kafka_restart_node",
    "kafka_kill_node",
    "kafka_rolling_restart",
    "kafka_kill_broker",
    "kafka_kill_one_of_three",
    "kafka_kill_redis",
    "kafka_freeze_node",
    "kafka_cut",
    "kafka_revoke_lagging",
    "kafka_unauthorized_target",
    "kafka_failing_record",
];
