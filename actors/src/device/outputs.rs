//! Which deliveries an uplink makes: one per distinct (target, decoder) pair, in the order of the device's routes. Pure.

use std::sync::Arc;

use bytes::Bytes;
use sluse_schema::delivery::{DeliveryKind, DeliveryMeta};
use sluse_schema::device::{DecoderScript, DeviceConfig, Route};
use sluse_schema::partition::{PartitionId, partition_of_target};
use sluse_schema::port::{DecodeError, DecodeErrorKind, Decoded};
use sluse_schema::record::NewRecord;

use super::message::Uplink;

/// What one decoder made of the uplink.
pub type DecodeResult = Result<Decoded, DecodeError>;

/// The distinct decoders among `routes`, in order of first use.
pub fn distinct_decoders(routes: &[Route]) -> Vec<Arc<DecoderScript>> {
    let mut decoders: Vec<Arc<DecoderScript>> = Vec::with_capacity(1);
    for decoder in routes.iter().filter_map(|r| r.decoder.as_ref()) {
        if decoders.iter().all(|d| d.id != decoder.id) {
            decoders.push(Arc::clone(decoder));
        }
    }
    decoders
}

/// The delivery records of `uplink`. `decoders` and `results` go together.
pub fn deliveries(
    config: &DeviceConfig,
    uplink: &Uplink,
    event_key: u128,
    decoders: &[Arc<DecoderScript>],
    results: &[DecodeResult],
    num_partitions: u32,
) -> Vec<(PartitionId, NewRecord)> {
    let mut outputs = Vec::with_capacity(config.routes.len());
    for route in config.routes.iter() {
        let result = route.decoder.as_ref().and_then(|decoder| {
            let place = decoders.iter().position(|d| d.id == decoder.id)?;
            results.get(place)
        });
        let (kind, value, error): (DeliveryKind, Bytes, Option<String>) = match result {
            None => (DeliveryKind::Body, uplink.value.clone(), None),
            Some(Ok(Decoded::Value { json, .. })) => (DeliveryKind::Body, json.clone(), None),
            Some(Ok(Decoded::Nothing)) => continue,
            Some(Err(error)) => (DeliveryKind::Undecoded, uplink.value.clone(), Some(error.message.clone())),
        };
        let meta = DeliveryMeta {
            target: route.target,
            device: config.device,
            application: config.application,
            organization: config.organization,
            decoder: route.decoder.as_ref().map(|d| d.id),
            kind,
            event_key,
            received_at_ms: uplink.meta.received_at_ms,
            content_type: if result.is_none() {
                uplink.meta.content_type.clone()
            } else {
                "application/json".to_owned()
            },
            error,
        };
        outputs.push((partition_of_target(route.target, num_partitions), meta.into_record(value)));
    }
    outputs
}

/// The delivery records of an uplink that could not be handled: the raw uplink for every route that has a decoder, as undecoded,
/// and as it is for the others.
pub fn undecoded(
    config: &DeviceConfig,
    uplink: &Uplink,
    event_key: u128,
    message: &str,
    num_partitions: u32,
) -> Vec<(PartitionId, NewRecord)> {
    let decoders = distinct_decoders(&config.routes);
    let error = DecodeError { kind: DecodeErrorKind::Crash, message: message.to_owned() };
    let results: Vec<DecodeResult> = decoders.iter().map(|_| Err(error.clone())).collect();
    deliveries(config, uplink, event_key, &decoders, &results, num_partitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluse_schema::id::{ApplicationId, DecoderId, DeviceId, OrganizationId, TargetId};
    use sluse_schema::record::{HeaderName, Offset};
    use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};

    fn script(id: i64) -> Arc<DecoderScript> {
        Arc::new(DecoderScript::new(DecoderId(id), "function decode(p) { return p }", None))
    }

    fn config(routes: Vec<Route>) -> DeviceConfig {
        DeviceConfig {
            device: DeviceId(1),
            application: ApplicationId(2),
            organization: OrganizationId(3),
            name: "Room 1".into(),
            metadata: "{}".into(),
            routes: routes.into(),
        }
    }

    fn uplink() -> Uplink {
        Uplink {
            offset: Offset(0),
            meta: UplinkMeta {
                device: DeviceId(1),
                organization: OrganizationId(3),
                source: SourceKind::Http,
                event: EventType::Up,
                received_at_ms: 5,
                event_id: None,
                content_type: "application/json".into(),
                figures: None,
            },
            value: Bytes::from_static(b"{\"raw\": 1.0}"),
        }
    }

    #[test]
    fn raw_decoded_failed_and_empty_results_become_what_they_must() {
        let routes = vec![
            Route { target: TargetId(1), decoder: None },
            Route { target: TargetId(1), decoder: Some(script(10)) },
            Route { target: TargetId(2), decoder: Some(script(11)) },
            Route { target: TargetId(3), decoder: Some(script(12)) },
        ];
        let config = config(routes);
        let decoders = distinct_decoders(&config.routes);
        let results = [
            Ok(Decoded::Value { json: Bytes::from_static(b"{\"t\":21.30}"), num_warnings: 0 }),
            Err(DecodeError { kind: DecodeErrorKind::Thrown, message: "boom".into() }),
            Ok(Decoded::Nothing),
        ];
        let outputs = deliveries(&config, &uplink(), 9, &decoders, &results, 8);
        let shown: Vec<(i64, &[u8], Option<&str>)> =
            outputs.iter().map(|(_, r)| (r.key, r.value.as_ref(), r.headers.get(HeaderName::Error))).collect();
        assert_eq!(
            shown,
            [
                (1, b"{\"raw\": 1.0}".as_slice(), None),
                (1, b"{\"t\":21.30}".as_slice(), None),
                (2, b"{\"raw\": 1.0}".as_slice(), Some("boom")),
            ]
        );
    }

    #[test]
    fn one_decoder_used_twice_decodes_once() {
        let routes = vec![
            Route { target: TargetId(1), decoder: Some(script(10)) },
            Route { target: TargetId(2), decoder: Some(script(10)) },
        ];
        assert_eq!(distinct_decoders(&routes).len(), 1);
    }
}
