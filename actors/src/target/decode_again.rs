//! Decoding an `undecoded` delivery that is offered again, with the decoder as it is now.

use bytes::Bytes;
use sluse_schema::delivery::DeliveryMeta;
use sluse_schema::port::{DecodeJob, Decoded};

use super::config::TargetPorts;
use super::input::DecodedAgain;

/// Loads the decoder and the device's record, and decodes.
pub(super) async fn decode_again(ports: &TargetPorts, meta: &DeliveryMeta, payload: Bytes) -> DecodedAgain {
    let Some(decoder) = meta.decoder else {
        return DecodedAgain::Failed("the delivery names no decoder".to_owned());
    };
    let (script, metadata) = match ports.store.load_decoder(decoder, meta.device).await {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return DecodedAgain::Failed(format!("decoder {decoder} or device {} is gone", meta.device)),
        Err(_) => return DecodedAgain::Later,
    };
    let job = DecodeJob { script, payload, metadata: metadata.into(), received_at_ms: meta.received_at_ms };
    match ports.decoder.decode(job).await {
        Ok(Decoded::Value { json, .. }) => DecodedAgain::Body(json),
        Ok(Decoded::Nothing) => DecodedAgain::Nothing,
        Err(error) => DecodedAgain::Failed(error.message),
    }
}
