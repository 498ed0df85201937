//! Between ChirpStack's forms and ours: times, days, tags.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use chirpstack_api::prost_types::Timestamp;
use chrono::{DateTime, NaiveDate, Utc};

pub(super) fn time(stamp: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    let stamp = stamp?;
    DateTime::from_timestamp(stamp.seconds, u32::try_from(stamp.nanos).unwrap_or(0))
}

pub(super) fn stamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: 0 }
}

/// The first instant of a day.
pub(super) fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

pub(super) fn tags_to<S: BuildHasher + Default>(tags: &BTreeMap<String, String>) -> HashMap<String, String, S> {
    tags.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(super) fn tags_from<S: BuildHasher>(tags: HashMap<String, String, S>) -> BTreeMap<String, String> {
    tags.into_iter().collect()
}
