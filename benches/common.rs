//! What the benchmarks share: a realistic uplink and devices on in-memory ports.

use std::sync::Arc;

use bytes::Bytes;
use sluse_actors::device::Uplink;
use sluse_schema::id::{DeviceId, OrganizationId};
use sluse_schema::record::{NewRecord, Offset};
use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};
use sluse_schema::wire::chirpstack::figures_of_up;

/// A ChirpStack `up` event of 1.3 kB, two gateways, as ChirpStack 4.20 publishes it.
pub fn chirpstack_up(f_cnt: u64) -> String {
    let gateway = |id: &str, rssi: i32, snr: f32| {
        format!(
            r#"{{"gatewayId":"{id}","uplinkId":3723485542,"gwTime":"2026-11-22T12:38:09.559263153+00:00","nsTime":"2026-11-22T12:38:09.603056705+00:00","rssi":{rssi},"snr":{snr},"location":{{"latitude":56.15,"longitude":10.2}},"context":"6GN6kA==","crcStatus":"CRC_OK"}}"#
        )
    };
    format!(
        r#"{{"deduplicationId":"df0eae92-3b6e-442c-ad58-{f_cnt:012x}","time":"2026-11-22T12:38:09.559263153+00:00","deviceInfo":{{"tenantId":"fd2fd6c4-6e9b-4598-89e5-004d49ef921f","tenantName":"ChirpStack","applicationId":"13785ea4-2e62-4887-a9ea-9e6fd7b3de82","applicationName":"Indoor climate","deviceProfileId":"72d1714e-aa2b-40ef-97a6-f5027ecb47bd","deviceProfileName":"Level v2","deviceName":"room 7","devEui":"a81758fffe0000a1","deviceClassEnabled":"CLASS_A","tags":{{"site":"east"}}}},"devAddr":"01020304","adr":true,"dr":5,"fCnt":{f_cnt},"fPort":2,"confirmed":false,"data":"AQDrAi8EAPkFAAcDog==","rxInfo":[{},{}],"txInfo":{{"frequency":868100000,"modulation":{{"lora":{{"bandwidth":125000,"spreadingFactor":7,"codeRate":"CR_4_5"}}}}}},"regionConfigId":"eu868"}}"#,
        gateway("0016c001f1510002", -91, -1.5),
        gateway("0016c001f1510001", -60, 9.5)
    )
}

/// The headers of an uplink of `device`.
pub fn uplink_meta(device: i64, f_cnt: u64) -> UplinkMeta {
    UplinkMeta {
        device: DeviceId(device),
        organization: OrganizationId(1),
        source: SourceKind::Chirpstack,
        event: EventType::Up,
        received_at_ms: 1_795_351_089_559 + f_cnt as i64,
        event_id: Some(format!("df0eae92-3b6e-442c-ad58-{f_cnt:012x}")),
        content_type: "application/json".to_owned(),
        figures: Some(figures_of_up(chirpstack_up(f_cnt).as_bytes())),
    }
}

/// An uplink as a device's actor gets it.
pub fn uplink(device: i64, offset: u64) -> Arc<Uplink> {
    let value = Bytes::from(chirpstack_up(offset));
    Arc::new(Uplink { offset: Offset(offset), meta: uplink_meta(device, offset), value })
}

/// An uplink as it stands in the log.
pub fn uplink_record(device: i64, f_cnt: u64) -> NewRecord {
    uplink_meta(device, f_cnt).into_record(Bytes::from(chirpstack_up(f_cnt)))
}
