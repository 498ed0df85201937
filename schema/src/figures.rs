//! Signal and frame figures of one transmission. They are read once, where the event comes in, and go with it as a header: an event is
//! a kilobyte or two of JSON, and reading it again in the device's actor took as long as everything else there.
//!
//! As text: a letter and a number for each figure that is known, parted by blanks. `t` event time (Unix milliseconds), `r` RSSI (dBm),
//! `s` SNR (dB), `g` gateways that heard it, `d` data rate, `f` frame counter.

use std::fmt::Write as _;

/// What an `up` event says of its transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpFigures {
    /// Event time, Unix milliseconds.
    pub event_at_ms: Option<i64>,
    /// Best RSSI over all gateways.
    pub rssi_dbm: Option<i32>,
    /// Best SNR over all gateways.
    pub snr_db: Option<f32>,
    pub num_gateways: u16,
    /// Index into the region's data-rate table.
    pub dr: Option<u8>,
    pub f_cnt: Option<u32>,
}

impl UpFigures {
    /// The header's text.
    pub fn to_text(self) -> String {
        let mut text = String::with_capacity(64);
        let mut number = itoa::Buffer::new();
        let mut put = |letter: char, figure: Option<i64>| {
            if let Some(figure) = figure {
                text.push(letter);
                text.push_str(number.format(figure));
                text.push(' ');
            }
        };
        put('t', self.event_at_ms);
        put('r', self.rssi_dbm.map(i64::from));
        put('d', self.dr.map(i64::from));
        put('f', self.f_cnt.map(i64::from));
        put('g', Some(i64::from(self.num_gateways)));
        if let Some(snr_db) = self.snr_db {
            // Writing into a String cannot fail.
            let _ = write!(text, "s{snr_db}");
        } else {
            text.pop();
        }
        text
    }

    /// Reads a header; `None` when it is none of ours.
    pub fn of_text(text: &str) -> Option<Self> {
        let mut figures = Self::default();
        for word in text.split(' ') {
            let mut letters = word.chars();
            let letter = letters.next()?;
            let number = letters.as_str();
            match letter {
                't' => figures.event_at_ms = Some(number.parse().ok()?),
                'r' => figures.rssi_dbm = Some(number.parse().ok()?),
                's' => figures.snr_db = Some(number.parse().ok()?),
                'g' => figures.num_gateways = number.parse().ok()?,
                'd' => figures.dr = Some(number.parse().ok()?),
                'f' => figures.f_cnt = Some(number.parse().ok()?),
                _ => return None,
            }
        }
        Some(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn figures_come_back_from_their_text(
            event_at_ms: Option<i64>, rssi_dbm: Option<i32>, num_gateways: u16, dr: Option<u8>, f_cnt: Option<u32>,
            snr_db in proptest::option::of(proptest::num::f32::NORMAL | proptest::num::f32::ZERO),
        ) {
            let figures = UpFigures { event_at_ms, rssi_dbm, snr_db, num_gateways, dr, f_cnt };
            prop_assert_eq!(UpFigures::of_text(&figures.to_text()), Some(figures));
        }

        #[test]
        fn any_other_text_is_refused_or_read_never_worse(text in "[a-z0-9 .-]{0,30}|.{0,20}") {
            let _ = UpFigures::of_text(&text);
        }
    }

    #[test]
    fn the_text_is_short_and_says_what_is_known() {
        let figures = UpFigures {
            event_at_ms: Some(1_795_351_089_559),
            rssi_dbm: Some(-60),
            snr_db: Some(9.5),
            num_gateways: 2,
            dr: Some(5),
            f_cnt: Some(9),
        };
        assert_eq!(figures.to_text(), "t1795351089559 r-60 d5 f9 g2 s9.5");
        assert_eq!(UpFigures::default().to_text(), "g0");
        assert_eq!(UpFigures::of_text("g0 x1"), None);
        assert_eq!(UpFigures::of_text(""), None);
    }
}
