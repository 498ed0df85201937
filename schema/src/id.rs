//! Identifiers: database rows as integers, radio names as fixed-width numbers, senders as lookup keys.
//! Limits: a devEUI and a gateway id are 64 bit, shown as 16 lower-case hex digits; capitals are accepted on input.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

row_id!(
    /// Row of a registered device (`iot_device.id`), whatever its type.
    DeviceId
);
row_id!(
    /// Row of a data target (`data_target.id`).
    TargetId
);
row_id!(
    /// Row of a payload decoder (`payload_decoder.id`).
    DecoderId
);
row_id!(
    /// Row of an organisation (`organization.id`): the tenant.
    OrganizationId
);
row_id!(
    /// Row of an application (`application.id`).
    ApplicationId
);
row_id!(
    /// Row of a connection between devices, a decoder and a target.
    ConnectionId
);
row_id!(
    /// Row of a user (`app_user.id`).
    UserId
);
row_id!(
    /// Row of a dead letter (`dead_letter.id`).
    DeadLetterId
);

/// Why a text is not an identifier of the asked kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ParseIdError {
    /// What would have been right, for the reader.
    pub expected: &'static str,
}

macro_rules! eui64 {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
                if !is_hex {
                    return Err(ParseIdError { expected: $expected });
                }
                u64::from_str_radix(text, 16)
                    .map($name)
                    .map_err(|_| ParseIdError { expected: $expected })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

eui64!(
    /// The 64-bit identifier of a LoRaWAN end device (LoRaWAN 1.0.4, 6.1.1.2).
    DevEui,
    "a devEUI of 16 hex digits"
);
eui64!(
    /// The 64-bit identifier of a LoRaWAN gateway.
    GatewayId,
    "a gateway id of 16 hex digits"
);

/// What names a device at its source: how a sender is looked up before anything is accepted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DeviceKey {
    /// LoRaWAN.
    DevEui(DevEui),
    /// Generic HTTP: SHA-256 of the device's API key, so that the key itself is in no cache and no log.
    ApiKey([u8; 32]),
}

impl DeviceKey {
    /// The key under which an HTTP device with this API key is found. Case and surrounding space do not count.
    pub fn of_api_key(api_key: &str) -> Self {
        Self::ApiKey(Sha256::digest(api_key.trim().to_ascii_lowercase().as_bytes()).into())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DevEui(eui) => eui.fmt(f),
            Self::ApiKey(_) => f.write_str("ApiKey(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_eui_is_read_in_capitals_and_shown_in_lower_case() {
        let eui: DevEui = "A81758FFFE0000A1".parse().unwrap();
        assert_eq!(eui.to_string(), "a81758fffe0000a1");
    }

    #[test]
    fn dev_eui_refuses_signs_separators_and_wrong_lengths() {
        for bad in ["", "+a81758fffe0000a", "a8-17-58-ff-fe-00", "a81758fffe0000a1a", "g81758fffe0000a1"] {
            assert!(bad.parse::<DevEui>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_api_key_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", DeviceKey::of_api_key("31dab038")), "ApiKey(..)");
    }
}
