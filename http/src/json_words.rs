//! What is wrong with a JSON text, in the words of the reference's parser (V8's, as of Node 20): clients show them as they come.
//!
//! Limits: for a text that V8 would take there are no words; the caller has its own then.

/// Characters on either side of the one that was not expected.
const NUM_CONTEXT_CHARS: usize = 10;

/// What `JSON.parse` says of `text`; `None` when it would take it. Positions are in UTF-16 units.
pub fn problem(text: &str) -> Option<String> {
    let mut scan = Scan { units: text.encode_utf16().collect(), at: 0, num_open: 0 };
    match scan.value().and_then(|()| scan.end()) {
        Ok(()) | Err(Stop::TooDeep) => None,
        Err(Stop::Because(words)) => Some(words),
    }
}

/// What the reference's body parser says of a text that begins neither an object nor an array.
pub fn no_container(text: &str) -> String {
    let trimmed = text.trim_start_matches([' ', '\t', '\n', '\r']);
    let units: Vec<u16> = text.encode_utf16().collect();
    unexpected(&units, units.len() - trimmed.encode_utf16().count())
}

enum Stop {
    Because(String),
    /// Deeper than the caller reads anything.
    TooDeep,
}

const DEPTH_MAX: usize = 512;

struct Scan {
    units: Vec<u16>,
    at: usize,
    num_open: usize,
}

/// `Unexpected token` with what stands around it.
fn unexpected(units: &[u16], at: usize) -> String {
    let Some(token) = units.get(at) else { return "Unexpected end of JSON input".to_owned() };
    let text = |units: &[u16]| String::from_utf16_lossy(units);
    let whole = text(units);
    if ["undefined", "NaN", "Infinity", "[object Object]"].contains(&whole.as_str()) {
        return format!("\"{whole}\" is not valid JSON");
    }
    let token = text(&[*token]);
    if units.len() <= 2 * NUM_CONTEXT_CHARS {
        return format!("Unexpected token '{token}', \"{whole}\" is not valid JSON");
    }
    let from = at.saturating_sub(NUM_CONTEXT_CHARS);
    let to = (at + NUM_CONTEXT_CHARS).min(units.len());
    let (before, after) = match at {
        at if at < NUM_CONTEXT_CHARS => ("", "..."),
        at if at < units.len() - NUM_CONTEXT_CHARS => ("...", "..."),
        _ => ("...", ""),
    };
    let to = if after.is_empty() { units.len() } else { to };
    let from = if before.is_empty() { 0 } else { from };
    format!("Unexpected token '{token}', {before}\"{}\"{after} is not valid JSON", text(&units[from..to]))
}

type Done = Result<(), Stop>;

impl Scan {
    fn peek(&self) -> Option<u8> {
        // What is beyond ASCII is no part of JSON's own signs.
        self.units.get(self.at).map(|unit| u8::try_from(*unit).unwrap_or(0xff))
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn because<T>(&self, what: &str) -> Result<T, Stop> {
        Err(Stop::Because(format!("{what} at position {}", self.at)))
    }

    fn unexpected<T>(&self) -> Result<T, Stop> {
        Err(Stop::Because(unexpected(&self.units, self.at)))
    }

    fn end(&mut self) -> Done {
        self.blanks();
        if self.peek().is_none() { Ok(()) } else { self.because("Unexpected non-whitespace character after JSON") }
    }

    fn value(&mut self) -> Done {
        self.blanks();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.unexpected(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Done) -> Done {
        if self.num_open == DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        self.num_open += 1;
        self.at += 1;
        read(self)?;
        self.num_open -= 1;
        Ok(())
    }

    fn object(&mut self) -> Done {
        self.blanks();
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'"') => {}
            _ => return self.because("Expected property name or '}' in JSON"),
        }
        loop {
            self.string()?;
            self.blanks();
            if self.peek() != Some(b':') {
                return self.because("Expected ':' after property name in JSON");
            }
            self.at += 1;
            self.value()?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.because("Expected ',' or '}' after property value in JSON"),
            }
            self.blanks();
            if self.peek() != Some(b'"') {
                return self.because("Expected double-quoted property name in JSON");
            }
        }
    }

    fn array(&mut self) -> Done {
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value()?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.because("Expected ',' or ']' after array element in JSON"),
            }
        }
    }

    fn string(&mut self) -> Done {
        self.at += 1;
        loop {
            match self.peek() {
                None => return self.because("Unterminated string in JSON"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        None => return self.because("Unterminated string in JSON"),
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                                    return self.because("Bad Unicode escape in JSON");
                                }
                                self.at += 1;
                            }
                        }
                        Some(_) => return self.because("Bad escaped character in JSON"),
                    }
                }
                Some(0..=0x1f) => return self.because("Bad control character in string literal in JSON"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn digits(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > from
    }

    fn number(&mut self) -> Done {
        if self.peek() == Some(b'-') {
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.because("No number after minus sign in JSON");
            }
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.because("Unexpected number in JSON");
            }
        } else {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.digits() {
                return self.because("Unterminated fractional number in JSON");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.digits() {
                return self.because("Exponent part is missing a number in JSON");
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Done {
        for letter in word.bytes() {
            if self.peek() != Some(letter) {
                return self.unexpected();
            }
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_refused_in_the_words_of_node_20() {
        for (text, words) in [
            ("{nope", "Expected property name or '}' in JSON at position 1"),
            ("{\"a\":", "Unexpected end of JSON input"),
            ("{\"a\"", "Expected ':' after property name in JSON at position 4"),
            ("{\"a\":1", "Expected ',' or '}' after property value in JSON at position 6"),
            ("{\"a\":1,}", "Expected double-quoted property name in JSON at position 7"),
            ("[1 2]", "Expected ',' or ']' after array element in JSON at position 3"),
            ("[,]", "Unexpected token ',', \"[,]\" is not valid JSON"),
            ("function decode(){}", "Unexpected token 'u', \"function decode(){}\" is not valid JSON"),
            ("function decode( p ){}", "Unexpected token 'u', \"function de\"... is not valid JSON"),
            (
                "[\"0123456789\", nope, 0123456789]",
                "Unexpected token 'o', ...\"456789\", nope, 01234\"... is not valid JSON",
            ),
            ("[\"0123456789012345\", x]", "Unexpected token 'x', ...\"9012345\", x]\" is not valid JSON"),
            ("\"a", "Unterminated string in JSON at position 2"),
            ("\"🫐\u{1}\"", "Bad control character in string literal in JSON at position 3"),
            ("\"\\x\"", "Bad escaped character in JSON at position 2"),
            ("\"\\u00g0\"", "Bad Unicode escape in JSON at position 5"),
            ("-", "No number after minus sign in JSON at position 1"),
            ("01", "Unexpected number in JSON at position 1"),
            ("1.", "Unterminated fractional number in JSON at position 2"),
            ("1e", "Exponent part is missing a number in JSON at position 2"),
            ("{} x", "Unexpected non-whitespace character after JSON at position 3"),
            ("undefined", "\"undefined\" is not valid JSON"),
            ("", "Unexpected end of JSON input"),
        ] {
            assert_eq!(problem(text).as_deref(), Some(words), "{text}");
        }
        assert_eq!(no_container("null"), "Unexpected token 'n', \"null\" is not valid JSON");
        assert_eq!(no_container(" \"x\""), "Unexpected token '\"', \" \"x\"\" is not valid JSON");
    }

    proptest! {
        #[test]
        fn there_are_words_for_just_what_serde_refuses(text in "[\\[\\]{}:,\"\\\\ u0-9a-f.+eE\u{1}ntrl-]{0,14}") {
            let is_refused = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => false,
                // Of these V8 has its own mind: it takes them.
                Err(e) if ["out of range", "surrogate", "hex escape"].iter().any(|part| e.to_string().contains(part)) => return Ok(()),
                Err(_) => true,
            };
            prop_assert_eq!(problem(&text).is_some(), is_refused, "{}", text);
        }
    }
}
