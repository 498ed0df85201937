//! ChirpStack's metrics: datasets over shared timestamps, one per day here.

use chirpstack_api::common::Metric;
use chrono::{DateTime, Utc};

/// The days of a metric.
pub(super) fn days(metric: Option<&Metric>) -> Vec<DateTime<Utc>> {
    let at = |seconds, nanos| DateTime::from_timestamp(seconds, u32::try_from(nanos).unwrap_or(0)).unwrap_or_default();
    metric.into_iter().flat_map(|m| &m.timestamps).map(|t| at(t.seconds, t.nanos)).collect()
}

/// A day's value of the metric's only dataset; nothing is zero.
pub(super) fn value(metric: Option<&Metric>, day: usize) -> f64 {
    metric.and_then(|m| m.datasets.first()?.data.get(day)).map_or(0.0, |value| f64::from(*value))
}

/// A day's values by the datasets' labels, zeros left out.
pub(super) fn by_label(metric: Option<&Metric>, day: usize) -> Vec<(String, f64)> {
    metric
        .into_iter()
        .flat_map(|m| &m.datasets)
        .filter_map(|set| Some((set.label.clone(), f64::from(*set.data.get(day)?))))
        .filter(|(_, value)| *value != 0.0)
        .collect()
}
