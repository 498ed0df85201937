//! The device's record as decoders see it: JSON text in two pieces, because most of it is the same for all devices of an application, and
//! 100 000 devices would otherwise keep 100 000 copies of it.

use std::fmt;
use std::sync::Arc;

/// JSON text whose second piece may be shared with others. Equal when the whole texts are.
#[derive(Clone, Debug)]
pub struct RecordText {
    own: Arc<str>,
    shared: Option<Arc<str>>,
}

impl RecordText {
    /// `own` followed by `shared`.
    pub fn new(own: impl Into<Arc<str>>, shared: Arc<str>) -> Self {
        Self { own: own.into(), shared: Some(shared) }
    }

    /// Both pieces, in order.
    pub fn pieces(&self) -> [&str; 2] {
        [&self.own, self.shared.as_deref().unwrap_or_default()]
    }

    /// Bytes of the whole text.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Into<Arc<str>>> From<T> for RecordText {
    fn from(text: T) -> Self {
        Self { own: text.into(), shared: None }
    }
}

impl fmt::Display for RecordText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl PartialEq for RecordText {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |text: &Self| text.pieces().map(str::as_bytes).concat();
        bytes(self) == bytes(other)
    }
}

impl Eq for RecordText {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_pieces_together_wherever_it_is_cut() {
        let whole = RecordText::from("{\"a\":1,\"b\":2}");
        let cut = RecordText::new("{\"a\":1,", "\"b\":2}".into());
        assert_eq!(cut, whole);
        assert_eq!(cut.to_string(), whole.to_string());
        assert_eq!(cut.len(), whole.len());
        assert_ne!(cut, RecordText::from("{\"a\":1,"));
    }
}
