//! What each kind of event says about a device: signal figures of a transmission, battery and margin, joins, downlinks. Pure.
//! Limit: what does not parse leaves the record as it was; it was accepted because its head was right.

use sluse_schema::device::{DownlinkOutcome, DownlinkState, LinkState, NetworkLog, Transmission};
use sluse_schema::figures::UpFigures;
use sluse_schema::text;
use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};
use sluse_schema::wire::chirpstack::{
    DownlinkEvent, JoinEvent, LocationEvent, LogEvent, StatusEvent, figures_of_up, unix_ms,
};

use super::window::event_at_ms;

/// Frame counters that jump further than this are a reset, not a loss.
const F_CNT_GAP_MAX: u32 = 10_000;
/// Longest text of a network server's log line that is kept.
const LOG_TEXT_BYTES_MAX: usize = 200;
/// Outcomes of downlinks of one device that wait for the next flush, which comes every second unless PostgreSQL is away.
const NUM_OUTCOMES_MAX: usize = 256;

/// The figures of an uplink: those that were read where it came in, or else what its payload says.
pub fn figures(meta: &UplinkMeta, payload: &[u8]) -> UpFigures {
    match (meta.figures, meta.source) {
        (Some(read), _) => read,
        (None, SourceKind::Chirpstack) => figures_of_up(payload),
        (None, SourceKind::Http) => UpFigures::default(),
    }
}

/// A transmission with these figures. `last_f_cnt` is the counter of the one before.
pub fn transmission(figures: UpFigures, received_at_ms: i64, offset: u64, last_f_cnt: Option<u32>) -> Transmission {
    let gap = match (last_f_cnt, figures.f_cnt) {
        (Some(last), Some(now)) if now > last => now - last - 1,
        _ => 0,
    };
    Transmission {
        event_at_ms: event_at_ms(figures.event_at_ms, received_at_ms),
        offset,
        rssi_dbm: figures.rssi_dbm,
        snr_db: figures.snr_db,
        num_gateways: figures.num_gateways,
        dr: figures.dr,
        f_cnt: figures.f_cnt,
        f_cnt_gap: if gap > F_CNT_GAP_MAX { 0 } else { gap },
    }
}

/// Lets an event other than `up` change the device's record.
pub fn apply(link: &mut LinkState, event: EventType, payload: &[u8], received_at_ms: i64) {
    let at = |time: Option<&str>| event_at_ms(time.and_then(unix_ms), received_at_ms);
    match event {
        EventType::Status => {
            let Ok(status) = serde_json::from_slice::<StatusEvent>(payload) else { return };
            link.margin_db = Some(status.margin);
            link.is_external_power = Some(status.external_power_source);
            let is_known = !status.battery_level_unavailable && !status.external_power_source;
            link.battery_level_percent = is_known.then_some(status.battery_level);
            link.status_at_ms = Some(at(status.time.as_deref()));
        }
        EventType::Join => {
            let Ok(join) = serde_json::from_slice::<JoinEvent>(payload) else { return };
            link.last_join_at_ms = Some(at(join.time.as_deref()));
            link.dev_addr = Some(text::cut(&join.dev_addr, 16).to_owned());
        }
        EventType::TxAck | EventType::Ack => {
            let Ok(downlink) = serde_json::from_slice::<DownlinkEvent>(payload) else { return };
            let happened_at_ms = at(downlink.time.as_deref());
            let queue_item_id = text::cut(&downlink.queue_item_id, 64).to_owned();
            let before = link.last_downlink.take().filter(|d| d.queue_item_id == queue_item_id);
            let sent_at_ms = before.as_ref().and_then(|d| d.sent_at_ms);
            let is_acknowledged = before.and_then(|d| d.is_acknowledged);
            link.last_downlink = Some(Box::new(DownlinkState {
                queue_item_id,
                f_cnt_down: downlink.f_cnt_down,
                sent_at_ms: if event == EventType::TxAck { Some(happened_at_ms) } else { sent_at_ms },
                is_acknowledged: downlink.acknowledged.or(is_acknowledged),
            }));
        }
        EventType::Log => {
            let Ok(log) = serde_json::from_slice::<LogEvent>(payload) else { return };
            link.last_log = Some(Box::new(NetworkLog {
                at_ms: at(log.time.as_deref()),
                level: text::cut(&log.level, LOG_TEXT_BYTES_MAX).to_owned(),
                code: text::cut(&log.code, LOG_TEXT_BYTES_MAX).to_owned(),
                description: text::cut(&log.description, LOG_TEXT_BYTES_MAX).to_owned(),
            }));
        }
        EventType::Location => {
            let Ok(LocationEvent { location: Some(place) }) = serde_json::from_slice(payload) else { return };
            (link.latitude, link.longitude) = (Some(place.latitude), Some(place.longitude));
        }
        EventType::Up | EventType::Other => {}
    }
}

/// What an event says of one downlink: `txack` that a gateway took it, `ack` whether the device did.
pub fn downlink_outcome(event: EventType, payload: &[u8], received_at_ms: i64) -> Option<DownlinkOutcome> {
    let is_ack = match event {
        EventType::Ack => true,
        EventType::TxAck => false,
        _ => return None,
    };
    let downlink: DownlinkEvent = serde_json::from_slice(payload).ok()?;
    // An id of the queue is a UUID; what PostgreSQL would refuse as text goes no further.
    if downlink.queue_item_id.is_empty() || !downlink.queue_item_id.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let at_ms = event_at_ms(downlink.time.as_deref().and_then(unix_ms), received_at_ms);
    Some(DownlinkOutcome {
        queue_item_id: text::cut(&downlink.queue_item_id, 64).to_owned(),
        f_cnt_down: downlink.f_cnt_down,
        sent_at_ms: (!is_ack).then_some(at_ms),
        acknowledged_at_ms: is_ack.then_some(at_ms),
        is_acknowledged: if is_ack { Some(downlink.acknowledged.unwrap_or(false)) } else { None },
    })
}

/// Adds an outcome to those of the same downlink. Full, the oldest goes: its figures stand in the record's last downlink at best.
pub fn add_outcome(waiting: &mut Vec<DownlinkOutcome>, outcome: DownlinkOutcome) {
    if let Some(known) = waiting.iter_mut().find(|known| known.queue_item_id == outcome.queue_item_id) {
        known.f_cnt_down = outcome.f_cnt_down.or(known.f_cnt_down);
        known.sent_at_ms = outcome.sent_at_ms.or(known.sent_at_ms);
        known.acknowledged_at_ms = outcome.acknowledged_at_ms.or(known.acknowledged_at_ms);
        known.is_acknowledged = outcome.is_acknowledged.or(known.is_acknowledged);
        return;
    }
    if waiting.len() >= NUM_OUTCOMES_MAX {
        waiting.remove(0);
    }
    waiting.push(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluse_schema::id::{DeviceId, OrganizationId};

    fn meta(source: SourceKind, figures: Option<UpFigures>) -> UplinkMeta {
        UplinkMeta {
            device: DeviceId(1),
            organization: OrganizationId(1),
            source,
            event: EventType::Up,
            received_at_ms: 0,
            event_id: None,
            content_type: String::new(),
            figures,
        }
    }

    #[test]
    fn a_transmission_has_its_best_signal_and_the_gap_it_shows() {
        let payload = br#"{"time":"2026-11-22T12:38:09.559263153+00:00","dr":5,"fCnt":9,
            "rxInfo":[{"rssi":-91,"snr":-1.5},{"rssi":-60,"snr":9.5}]}"#;
        let figures = figures(&meta(SourceKind::Chirpstack, None), payload);
        let t = transmission(figures, i64::MAX, 4, Some(5));
        assert_eq!((t.rssi_dbm, t.snr_db, t.num_gateways), (Some(-60), Some(9.5), 2));
        assert_eq!((t.dr, t.f_cnt, t.f_cnt_gap), (Some(5), Some(9), 3));
        assert_eq!(t.event_at_ms, 1_795_351_089_559);
    }

    #[test]
    fn a_counter_that_starts_anew_is_no_gap() {
        let of = |f_cnt| UpFigures { f_cnt: Some(f_cnt), ..UpFigures::default() };
        assert_eq!(transmission(of(0), 1, 0, Some(500)).f_cnt_gap, 0);
        assert_eq!(transmission(of(4_000_000_000), 1, 0, Some(5)).f_cnt_gap, 0);
    }

    #[test]
    fn a_payload_is_read_for_figures_only_when_its_source_has_them_and_nobody_has_read_them_yet() {
        let payload = br#"{"fCnt":7}"#;
        let of = |source, read| figures(&meta(source, read), payload).f_cnt;
        assert_eq!(of(SourceKind::Chirpstack, None), Some(7));
        assert_eq!(of(SourceKind::Chirpstack, Some(UpFigures { f_cnt: Some(8), ..UpFigures::default() })), Some(8));
        assert_eq!(of(SourceKind::Http, None), None);
    }

    #[test]
    fn status_join_and_downlink_fill_the_record() {
        let mut link = LinkState::default();
        apply(&mut link, EventType::Status, br#"{"margin":10,"batteryLevel":78.74016}"#, 5);
        assert_eq!((link.margin_db, link.battery_level_percent), (Some(10), Some(78.74016)));
        apply(&mut link, EventType::Join, br#"{"devAddr":"01d65fca"}"#, 6);
        assert_eq!((link.dev_addr.as_deref(), link.last_join_at_ms), (Some("01d65fca"), Some(6)));
        apply(&mut link, EventType::TxAck, br#"{"queueItemId":"q","fCntDown":5}"#, 7);
        apply(&mut link, EventType::Ack, br#"{"queueItemId":"q","fCntDown":5,"acknowledged":true}"#, 8);
        let downlink = link.last_downlink.clone().unwrap();
        assert_eq!((downlink.sent_at_ms, downlink.is_acknowledged), (Some(7), Some(true)));
    }

    #[test]
    fn outcomes_of_one_downlink_become_one_and_their_number_is_bounded() {
        let mut waiting = Vec::new();
        let txack = br#"{"queueItemId":"q","fCntDown":5,"time":"2026-11-22T12:38:09+00:00"}"#;
        let late = 1_795_351_089_000 + 5;
        add_outcome(&mut waiting, downlink_outcome(EventType::TxAck, txack, late).unwrap());
        let ack = br#"{"queueItemId":"q","fCntDown":5,"acknowledged":false}"#;
        add_outcome(&mut waiting, downlink_outcome(EventType::Ack, ack, late + 1).unwrap());
        assert_eq!(
            waiting,
            [DownlinkOutcome {
                queue_item_id: "q".into(),
                f_cnt_down: Some(5),
                sent_at_ms: Some(1_795_351_089_000),
                acknowledged_at_ms: Some(late + 1),
                is_acknowledged: Some(false),
            }]
        );
        assert_eq!(downlink_outcome(EventType::Ack, b"{}", 1), None);
        assert_eq!(downlink_outcome(EventType::Up, ack, 1), None);
        for n in 0..2 * NUM_OUTCOMES_MAX {
            let event = format!("{{\"queueItemId\":\"{n}\"}}");
            add_outcome(&mut waiting, downlink_outcome(EventType::TxAck, event.as_bytes(), 1).unwrap());
        }
        assert_eq!(waiting.len(), NUM_OUTCOMES_MAX);
    }

    #[test]
    fn what_does_not_parse_changes_nothing() {
        let mut link = LinkState { margin_db: Some(3), ..LinkState::default() };
        for event in [EventType::Status, EventType::Join, EventType::Ack, EventType::Log, EventType::Location] {
            apply(&mut link, event, b"\xff", 1);
        }
        assert_eq!(link, LinkState { margin_db: Some(3), ..LinkState::default() });
    }
}
