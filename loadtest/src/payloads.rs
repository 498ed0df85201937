//! What the simulated sensors put on the air: four byte layouts of our own, in the spirit of what vendors do, and one JSON body
//! for HTTP devices. Each carries the sensor's serial number (its index in the fleet) and its message counter, so that a receiver
//! can tell after decoding which uplink it got.
//!
//! | model | layout | f_port | decoder dialect |
//! |---|---|---|---|
//! | `Brise C2` climate | type, value; big endian | 5 | `ts013` |
//! | `Pegel L1` water level | fixed fields; big endian | 2 | `chirpstack3` |
//! | `Muld M3` soil | channel, type, value; little endian | 85 | `ttn2` |
//! | `Plads P4` parking | packed bits | 10 | `os2iot` |
//! | `Strøm H5` power meter | JSON over HTTP | – | `os2iot` |

use sluse_schema::device::Dialect;

/// A sensor model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    Climate,
    WaterLevel,
    Soil,
    Parking,
    PowerMeter,
}

impl Model {
    /// The LoRaWAN models, in the order in which devices get them.
    pub const LORAWAN: [Self; 4] = [Self::Climate, Self::WaterLevel, Self::Soil, Self::Parking];
    /// Every model.
    pub const ALL: [Self; 5] = [Self::Climate, Self::WaterLevel, Self::Soil, Self::Parking, Self::PowerMeter];

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Climate => "Brise C2",
            Self::WaterLevel => "Pegel L1",
            Self::Soil => "Muld M3",
            Self::Parking => "Plads P4",
            Self::PowerMeter => "Strøm H5",
        }
    }

    /// The JavaScript that decodes it.
    pub const fn decoder_source(self) -> &'static str {
        match self {
            Self::Climate => include_str!("../decoders/climate_ts013.js"),
            Self::WaterLevel => include_str!("../decoders/water_level_chirpstack3.js"),
            Self::Soil => include_str!("../decoders/soil_ttn2.js"),
            Self::Parking => include_str!("../decoders/parking_os2iot.js"),
            Self::PowerMeter => include_str!("../decoders/power_meter_os2iot.js"),
        }
    }

    /// How the decoder is called.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Climate => Dialect::Ts013,
            Self::WaterLevel => Dialect::Chirpstack3,
            Self::Soil => Dialect::Ttn2,
            Self::Parking | Self::PowerMeter => Dialect::Os2iot,
        }
    }

    /// The port that its application data comes on.
    pub const fn f_port(self) -> u8 {
        match self {
            Self::Climate => 5,
            Self::WaterLevel => 2,
            Self::Soil => 85,
            Self::Parking => 10,
            Self::PowerMeter => 0,
        }
    }
}

/// What a sensor measured, out of thin air but plausible.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Tenths of a degree Celsius.
    pub temperature_dc: i16,
    pub humidity_percent: u8,
    pub level_mm: u16,
    pub battery_mv: u16,
    pub is_occupied: bool,
}

impl Measured {
    /// Values from random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self {
            temperature_dc: (bits % 450) as i16 - 150,
            humidity_percent: 20 + ((bits >> 12) % 80) as u8,
            level_mm: ((bits >> 20) % 4000) as u16,
            battery_mv: 2800 + ((bits >> 34) % 800) as u16,
            is_occupied: bits >> 63 == 1,
        }
    }
}

/// Writes the frame of a LoRaWAN model, or the JSON body of an HTTP one.
pub fn encode(model: Model, serial: u32, counter: u32, measured: &Measured, out: &mut Vec<u8>) {
    let m = measured;
    match model {
        Model::Climate => {
            out.push(0x01);
            out.extend(m.temperature_dc.to_be_bytes());
            out.extend([0x02, m.humidity_percent]);
            out.push(0x07);
            out.extend(m.battery_mv.to_be_bytes());
            out.push(0x0a);
            out.extend(serial.to_be_bytes());
            out.push(0x0b);
            out.extend(counter.to_be_bytes());
        }
        Model::WaterLevel => {
            out.extend(((u16::from(m.is_occupied) << 15) | (m.battery_mv & 0x3fff)).to_be_bytes());
            out.extend(m.level_mm.to_be_bytes());
            out.extend((m.temperature_dc * 10).to_be_bytes());
            out.extend(serial.to_be_bytes());
            out.extend(counter.to_be_bytes());
        }
        Model::Soil => {
            out.extend([0x01, 0x75, (m.battery_mv / 36).min(100) as u8]);
            out.extend([0x03, 0x67]);
            out.extend(m.temperature_dc.to_le_bytes());
            out.extend([0x04, 0x68, m.humidity_percent * 2]);
            out.extend([0x7f, 0xf0]);
            out.extend(serial.to_le_bytes());
            out.extend([0x7f, 0xf1]);
            out.extend(counter.to_le_bytes());
        }
        Model::Parking => {
            out.push((u8::from(m.is_occupied) << 7) | (m.battery_mv / 36).min(100) as u8);
            out.push((m.temperature_dc / 10) as i8 as u8);
            out.extend(serial.to_be_bytes());
            out.extend(counter.to_be_bytes());
        }
        Model::PowerMeter => {
            use std::io::Write as _;
            let power_w = u32::from(m.level_mm) * 3;
            // Writing to a vector cannot fail.
            let _ = write!(
                out,
                r#"{{"node":{serial},"seq":{counter},"meter":{{"power_w":{power_w},"temperature_c":{}.{}}},"firmware":"2.1.0"}}"#,
                m.temperature_dc / 10,
                (m.temperature_dc % 10).abs(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(model: Model) -> Vec<u8> {
        let mut out = Vec::new();
        let measured =
            Measured { temperature_dc: -57, humidity_percent: 81, level_mm: 1234, battery_mv: 3300, is_occupied: true };
        encode(model, 0x0102_0304, 0x0000_0a0b, &measured, &mut out);
        out
    }

    #[test]
    fn frames_stay_within_what_the_slowest_data_rate_carries() {
        for model in Model::LORAWAN {
            let len = frame(model).len();
            assert!((10..=51).contains(&len), "{}: {len} bytes", model.name());
        }
    }

    #[test]
    fn serial_number_and_counter_stand_where_the_decoders_read_them() {
        assert_eq!(frame(Model::Climate)[8..], [0x0a, 1, 2, 3, 4, 0x0b, 0, 0, 0x0a, 0x0b]);
        assert_eq!(frame(Model::WaterLevel)[6..], [1, 2, 3, 4, 0, 0, 0x0a, 0x0b]);
        assert_eq!(frame(Model::Soil)[10..], [0x7f, 0xf0, 4, 3, 2, 1, 0x7f, 0xf1, 0x0b, 0x0a, 0, 0]);
        assert_eq!(frame(Model::Parking)[2..], [1, 2, 3, 4, 0, 0, 0x0a, 0x0b]);
    }

    #[test]
    fn http_bodies_are_json_for_every_measurement() {
        for seed in 0..2000_u64 {
            let mut out = Vec::new();
            let bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            encode(Model::PowerMeter, 7, 9, &Measured::from_bits(bits), &mut out);
            let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!((json["node"].as_u64(), json["seq"].as_u64()), (Some(7), Some(9)));
        }
    }

    /// Calls a model's decoder as its dialect is called, and returns its result as JSON.
    fn decode(model: Model, frame: &[u8]) -> serde_json::Value {
        use base64::Engine as _;
        let bytes = serde_json::to_string(frame).unwrap();
        let call = match model {
            Model::Climate => format!("decodeUplink({{bytes: {bytes}, fPort: 5}}).data"),
            Model::WaterLevel => format!("Decode(2, {bytes}, {{}})"),
            Model::Soil => format!("Decoder({bytes}, 85)"),
            Model::Parking => {
                let data = base64::engine::general_purpose::STANDARD.encode(frame);
                format!(r#"decode({{data: "{data}", rxInfo: [{{}}, {{}}], time: "t"}}, {{name: "bay 7"}})"#)
            }
            Model::PowerMeter => format!(r#"decode({}, {{name: "m"}})"#, String::from_utf8_lossy(frame)),
        };
        let runtime = rquickjs::Runtime::new().unwrap();
        let context = rquickjs::Context::full(&runtime).unwrap();
        let source = format!("{}\nJSON.stringify({call})", model.decoder_source());
        let json: String = context.with(|ctx| ctx.eval(source)).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn every_decoder_reads_what_its_sensor_sends() {
        for model in Model::ALL {
            let decoded = decode(model, &frame(model));
            assert_eq!(decoded["node"], 0x0102_0304, "{}: {decoded}", model.name());
            assert_eq!(decoded["seq"], 0x0a0b, "{}: {decoded}", model.name());
        }
        let climate = decode(Model::Climate, &frame(Model::Climate));
        assert_eq!((&climate["temperature_c"], &climate["humidity_percent"]), (&(-5.7).into(), &81.into()));
        let water = decode(Model::WaterLevel, &frame(Model::WaterLevel));
        assert_eq!((&water["level_m"], &water["temperature_c"]), (&1.234.into(), &(-5.7).into()));
        assert_eq!((&water["alarm"], &water["battery_v"]), (&true.into(), &3.3.into()));
        let soil = decode(Model::Soil, &frame(Model::Soil));
        assert_eq!((&soil["temperature_c"], &soil["moisture_percent"]), (&(-5.7).into(), &81.into()));
        let parking = decode(Model::Parking, &frame(Model::Parking));
        assert_eq!(
            (&parking["occupied"], &parking["heard_by"], &parking["bay"]),
            (&true.into(), &2.into(), &"bay 7".into())
        );
    }

    #[test]
    fn serial_numbers_and_counters_survive_to_their_last_bit() {
        for model in Model::LORAWAN {
            let mut frame = Vec::new();
            encode(model, u32::MAX, u32::MAX, &Measured::from_bits(0), &mut frame);
            let decoded = decode(model, &frame);
            assert_eq!((decoded["node"].as_u64(), decoded["seq"].as_u64()), (Some(4_294_967_295), Some(4_294_967_295)));
        }
    }
}
