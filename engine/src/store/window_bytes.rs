//! A device's window of transmissions as it is stored: 36 bytes for each, big-endian, newest last, behind one byte that says so.
//!
//! It is written with every flush of a device, so its size and the time that it takes count. What the first version wrote, a JSON array, is
//! read too.

use std::collections::VecDeque;

use sluse_schema::device::Transmission;

/// No JSON begins with it.
const FORMAT: u8 = 1;
const TRANSMISSION_BYTES: usize = 36;

const HAS_RSSI: u8 = 1;
const HAS_SNR: u8 = 2;
const HAS_DR: u8 = 4;
const HAS_F_CNT: u8 = 8;

/// The stored form.
pub fn encode(window: &VecDeque<Transmission>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + window.len() * TRANSMISSION_BYTES);
    bytes.push(FORMAT);
    for transmission in window {
        bytes.extend_from_slice(&encode_one(transmission));
    }
    bytes
}

fn encode_one(transmission: &Transmission) -> [u8; TRANSMISSION_BYTES] {
    let Transmission { event_at_ms, offset, rssi_dbm, snr_db, num_gateways, dr, f_cnt, f_cnt_gap } = transmission;
    let flag = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
    let mut bytes = [0; TRANSMISSION_BYTES];
    bytes[0..8].copy_from_slice(&event_at_ms.to_be_bytes());
    bytes[8..16].copy_from_slice(&offset.to_be_bytes());
    bytes[16..20].copy_from_slice(&rssi_dbm.unwrap_or_default().to_be_bytes());
    bytes[20..24].copy_from_slice(&snr_db.unwrap_or_default().to_be_bytes());
    bytes[24..28].copy_from_slice(&f_cnt.unwrap_or_default().to_be_bytes());
    bytes[28..32].copy_from_slice(&f_cnt_gap.to_be_bytes());
    bytes[32..34].copy_from_slice(&num_gateways.to_be_bytes());
    bytes[34] = dr.unwrap_or_default();
    bytes[35] = flag(rssi_dbm.is_some(), HAS_RSSI)
        | flag(snr_db.is_some(), HAS_SNR)
        | flag(dr.is_some(), HAS_DR)
        | flag(f_cnt.is_some(), HAS_F_CNT);
    bytes
}

/// Reads the stored form, of either version; `None` when it is neither.
pub fn decode<W>(bytes: &[u8]) -> Option<W>
where
    W: FromIterator<Transmission> + serde::de::DeserializeOwned,
{
    let Some((&FORMAT, rest)) = bytes.split_first() else { return serde_json::from_slice(bytes).ok() };
    let (transmissions, torn) = rest.as_chunks();
    torn.is_empty().then(|| transmissions.iter().map(decode_one).collect())
}

fn decode_one(bytes: &[u8; TRANSMISSION_BYTES]) -> Transmission {
    fn part<const N: usize>(bytes: &[u8; TRANSMISSION_BYTES], at: usize) -> [u8; N] {
        let mut part = [0; N];
        part.copy_from_slice(&bytes[at..at + N]);
        part
    }
    let has = |bit: u8| bytes[35] & bit != 0;
    Transmission {
        event_at_ms: i64::from_be_bytes(part(bytes, 0)),
        offset: u64::from_be_bytes(part(bytes, 8)),
        rssi_dbm: has(HAS_RSSI).then(|| i32::from_be_bytes(part(bytes, 16))),
        snr_db: has(HAS_SNR).then(|| f32::from_be_bytes(part(bytes, 20))),
        f_cnt: has(HAS_F_CNT).then(|| u32::from_be_bytes(part(bytes, 24))),
        f_cnt_gap: u32::from_be_bytes(part(bytes, 28)),
        num_gateways: u16::from_be_bytes(part(bytes, 32)),
        dr: has(HAS_DR).then_some(bytes[34]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transmission() -> impl Strategy<Value = Transmission> {
        (any::<(i64, u64, Option<i32>, Option<u16>)>(), any::<(u16, Option<u8>, Option<u32>, u32)>()).prop_map(
            |((event_at_ms, offset, rssi_dbm, snr), (num_gateways, dr, f_cnt, f_cnt_gap))| Transmission {
                event_at_ms,
                offset,
                rssi_dbm,
                snr_db: snr.map(|snr| f32::from(snr) / 4.0 - 20.0),
                num_gateways,
                dr,
                f_cnt,
                f_cnt_gap,
            },
        )
    }

    proptest! {
        #[test]
        fn a_window_comes_back_as_it_was_from_either_version(window in proptest::collection::vec(transmission(), 0..30)) {
            let window = VecDeque::from(window);
            prop_assert_eq!(decode(&encode(&window)), Some(window.clone()));
            prop_assert_eq!(decode(&serde_json::to_vec(&window).unwrap()), Some(window));
        }

        #[test]
        fn what_is_neither_version_is_refused_not_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(window) = decode::<Vec<Transmission>>(&bytes) {
                prop_assert_eq!(window.len() * TRANSMISSION_BYTES + 1, bytes.len());
            }
        }
    }
}
