//! What a seed means: how large the world is, which faults may happen in it and how often, and when what is done to it.
//!
//! Faults are switched on class by class at random ("swarm"), so that some seeds have one fault alone and others all of them.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluse_actors::partition::DeviceStageConfig;
use sluse_actors::partition::offsets::WindowLimits;
use sluse_actors::target::TargetStageConfig;
use std::time::Duration;

/// A port's call, for faults and the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Append,
    Commit,
    Committed,
    Read,
    LookUp,
    Activate,
    Take,
    StoreStates,
    LoadTargets,
    StoreCursors,
    Decode,
    Send,
}

impl Op {
    pub fn is_store(self) -> bool {
        matches!(
            self,
            Self::LookUp | Self::Activate | Self::Take | Self::StoreStates | Self::LoadTargets | Self::StoreCursors
        )
    }

    pub fn is_log(self) -> bool {
        matches!(self, Self::Append | Self::Commit | Self::Committed | Self::Read)
    }
}

/// How a receiver behaves for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Answers, after seconds.
    Slow,
    /// Some tries fail, some answers are lost on the way back.
    Flaky,
    /// 500 to everything.
    Broken,
    /// 429 with Retry-After.
    Busy,
    /// No answer at all.
    Hanging,
    /// 401.
    Unauthorized,
}

/// Something that is done to the world at a time.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Crash {
        node: usize,
    },
    Freeze {
        node: usize,
        for_ms: u64,
        is_taken_away: bool,
    },
    /// SIGTERM and a new start.
    Restart {
        node: usize,
    },
    Move {
        partition: u32,
    },
    StoreAway {
        for_ms: u64,
    },
    LogAway {
        for_ms: u64,
    },
    Receiver {
        target: i64,
        mood: Mood,
        for_ms: u64,
    },
    Rewind {
        target: i64,
        to: f64,
    },
    Replay {
        target: i64,
    },
    DeleteTarget {
        target: i64,
    },
    EditTarget {
        target: i64,
    },
    ChangeRoutes {
        device: i64,
    },
    DeleteDevice {
        device: i64,
        is_told: bool,
    },
    /// Trims what retention allows.
    Trim,
}

/// The world of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub num_partitions: u32,
    pub num_devices: i64,
    pub num_targets: i64,
    pub has_gaps: bool,
    pub duration_ms: u64,
    /// A sender's next uplink, on average after this long.
    pub uplink_every_ms: u64,
    pub has_event_ids: bool,
    /// Chance that a source sends an accepted uplink once more.
    pub p_repeat: f64,
    pub p_delay: f64,
    pub delay_ms_max: u64,
    /// A call fails and nothing was done.
    pub p_fail: f64,
    /// A call was done and its answer is lost.
    pub p_lose: f64,
    pub p_crash: f64,
    pub p_freeze: f64,
    pub num_crashes_max: u32,
    pub p_decode_fails: f64,
    pub p_decode_panics: f64,
    pub p_send_panics: f64,
    /// Every payload whose number divides by it panics the device's actor; 0: none.
    pub poison_every: u64,
    pub actions: Vec<(u64, Action)>,
    /// Only the receiver of target 1 is ill: nobody else may notice (I6).
    pub is_one_ill: bool,
    pub device_stage: DeviceStageConfig,
    pub target_stage: TargetStageConfig,
}

fn one_of<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

impl Plan {
    pub fn of_seed(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed ^ 0x51_05_e0_00);
        let on = |rng: &mut StdRng, p: f64, value: f64| if rng.random_bool(p) { value } else { 0.0 };
        let is_one_ill = seed % 8 == 7;
        let duration_ms = rng.random_range(1_000..8_000);
        let mut plan = Self {
            seed,
            num_partitions: one_of(rng, &[1, 2, 2, 3]),
            num_devices: rng.random_range(1..6),
            num_targets: rng.random_range(1..4),
            has_gaps: rng.random_bool(0.5),
            duration_ms,
            uplink_every_ms: one_of(rng, &[200, 500, 1_500]),
            has_event_ids: rng.random_bool(0.8),
            p_repeat: on(rng, 0.5, 0.1),
            p_delay: on(rng, 0.6, 0.2),
            delay_ms_max: one_of(rng, &[5, 50, 1_500]),
            p_fail: on(rng, 0.4, 0.03),
            p_lose: on(rng, 0.4, 0.03),
            p_crash: on(rng, 0.5, 0.005),
            p_freeze: on(rng, 0.3, 0.003),
            num_crashes_max: 5,
            p_decode_fails: on(rng, 0.3, 0.05),
            p_decode_panics: on(rng, 0.25, 0.02),
            p_send_panics: on(rng, 0.2, 0.02),
            poison_every: one_of(rng, &[0, 0, 0, 0, 23]),
            actions: Vec::new(),
            is_one_ill,
            device_stage: Self::device_stage(rng),
            target_stage: Self::target_stage(rng),
        };
        if is_one_ill {
            plan.only_target_one_is_ill(rng);
        } else {
            plan.draw_actions(rng);
        }
        plan.actions.sort_by_key(|(at_ms, _)| *at_ms);
        plan
    }

    fn device_stage(rng: &mut StdRng) -> DeviceStageConfig {
        DeviceStageConfig {
            limits: WindowLimits {
                num_open_max: one_of(rng, &[8, 32, 4_096]),
                num_bytes_max: one_of(rng, &[200, 1 << 20]),
                num_step_max: one_of(rng, &[1, 5, 1_000]),
                num_step_bytes_max: one_of(rng, &[1, 500, 8 << 20]),
            },
            read_interval: Duration::from_millis(one_of(rng, &[0, 25, 200])),
            flush_interval: Duration::from_millis(one_of(rng, &[300, 1_000, 3_000])),
            num_flush_rows_max: one_of(rng, &[1, 1_000]),
            passivate_after: Duration::from_secs(one_of(rng, &[1, 900])),
            num_active_max: one_of(rng, &[1, 50_000]),
            num_activate_max: one_of(rng, &[1, 1_000]),
            ..DeviceStageConfig::default()
        }
    }

    fn target_stage(rng: &mut StdRng) -> TargetStageConfig {
        TargetStageConfig {
            window_records: one_of(rng, &[8, 64, 8_192]),
            read_records_max: one_of(rng, &[3, 1_000]),
            flush_every: Duration::from_millis(one_of(rng, &[300, 1_000, 3_000])),
            flush_outcomes: one_of(rng, &[5, 1_000]),
            dead_letters_max: one_of(rng, &[3, 10_000]),
            revoke_within: Duration::from_millis(one_of(rng, &[200, 5_000])),
            ..TargetStageConfig::default()
        }
    }

    fn only_target_one_is_ill(&mut self, rng: &mut StdRng) {
        self.num_targets = 3;
        self.p_delay = 0.0;
        self.p_fail = 0.0;
        self.p_lose = 0.0;
        self.p_crash = 0.0;
        self.p_freeze = 0.0;
        self.p_decode_fails = 0.0;
        self.p_decode_panics = 0.0;
        self.p_send_panics = 0.0;
        self.poison_every = 0;
        let mood = one_of(rng, &[Mood::Broken, Mood::Busy, Mood::Hanging, Mood::Unauthorized, Mood::Slow]);
        let at_ms = rng.random_range(0..self.duration_ms / 2);
        self.actions.push((at_ms, Action::Receiver { target: 1, mood, for_ms: self.duration_ms }));
    }

    fn draw_actions(&mut self, rng: &mut StdRng) {
        let (num_partitions, num_targets, num_devices) = (self.num_partitions, self.num_targets, self.num_devices);
        let kinds: Vec<bool> = (0..14).map(|_| rng.random_bool(0.35)).collect();
        let has_trim = kinds[13] && rng.random_bool(0.3);
        for _ in 0..rng.random_range(0..10) {
            let kind = rng.random_range(0..14usize);
            if !kinds[kind] {
                continue;
            }
            let at_ms = rng.random_range(0..self.duration_ms);
            let node = rng.random_range(0..2);
            let for_ms = one_of(rng, &[300, 2_000, 8_000]);
            let target = rng.random_range(1..=num_targets);
            let device = rng.random_range(1..=num_devices);
            let action = match kind {
                0 => Action::Crash { node },
                1 => Action::Freeze { node, for_ms, is_taken_away: rng.random_bool(0.7) },
                2 => Action::Restart { node },
                3 => Action::Move { partition: rng.random_range(0..num_partitions) },
                4 => Action::StoreAway { for_ms },
                5 => Action::LogAway { for_ms },
                6..=8 => {
                    let moods = [Mood::Slow, Mood::Flaky, Mood::Broken, Mood::Busy, Mood::Hanging, Mood::Unauthorized];
                    Action::Receiver {
                        target,
                        mood: one_of(rng, &moods),
                        for_ms: one_of(rng, &[2_000, 20_000, 120_000]),
                    }
                }
                9 => Action::Rewind { target, to: rng.random_range(0.0..1.0) },
                10 => Action::Replay { target },
                11 if rng.random_bool(0.3) => Action::DeleteTarget { target },
                11 => Action::EditTarget { target },
                12 if rng.random_bool(0.3) => Action::DeleteDevice { device, is_told: rng.random_bool(0.5) },
                12 => Action::ChangeRoutes { device },
                13 if has_trim => Action::Trim,
                _ => continue,
            };
            self.actions.push((at_ms, action));
        }
    }

    /// Whether a receiver may be sent the same delivery twice.
    pub fn may_duplicate(&self) -> bool {
        let sends_again = |action: &Action| {
            matches!(
                action,
                Action::Crash { .. }
                    | Action::Freeze { .. }
                    | Action::Restart { .. }
                    | Action::Move { .. }
                    | Action::Rewind { .. }
                    | Action::Replay { .. }
                    | Action::Receiver { mood: Mood::Flaky | Mood::Hanging | Mood::Slow, .. }
            )
        };
        self.p_crash > 0.0
            || self.p_freeze > 0.0
            || self.p_send_panics > 0.0
            || self.actions.iter().any(|(_, action)| sends_again(action))
    }

    /// Whether a node may end or lose a partition with something unsaid.
    pub fn may_lose_nodes(&self) -> bool {
        let loses = |action: &Action| {
            matches!(
                action,
                Action::Crash { .. } | Action::Freeze { .. } | Action::Restart { .. } | Action::Move { .. }
            )
        };
        self.p_crash > 0.0 || self.p_freeze > 0.0 || self.actions.iter().any(|(_, action)| loses(action))
    }
}
