//! Text from outside: where it is cut, and what is taken out of it before a person or a database sees it.

/// `bytes` as text, checked a vector at a time: payloads are checked where they come in and again where a decoder gets them.
///
/// # Errors
/// They are not UTF-8; the error says from where on.
pub fn of_utf8(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    simdutf8::basic::from_utf8(bytes).or_else(|_| std::str::from_utf8(bytes))
}

/// The longest prefix of `text` that has at most `num_bytes_max` bytes and ends at a character boundary.
pub fn cut(text: &str, num_bytes_max: usize) -> &str {
    if text.len() <= num_bytes_max {
        return text;
    }
    let mut end = num_bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `bytes` as text for a person: invalid UTF-8 replaced, NUL taken out (PostgreSQL's `text` refuses it), cut.
pub fn printable(bytes: &[u8], num_bytes_max: usize) -> String {
    let head = &bytes[..bytes.len().min(num_bytes_max.saturating_add(3))];
    let text = String::from_utf8_lossy(head).replace('\0', "\u{fffd}");
    cut(&text, num_bytes_max).to_owned()
}

/// `text` with the user and password in every address in it masked: `mqtt://rita:hunter2@broker` is shown as
/// `mqtt://********@broker`.
pub fn without_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| c.is_whitespace() || "/?#\"'<>,;)".contains(c)).unwrap_or(tail.len());
        let authority = &tail[..end];
        match authority.rfind('@') {
            Some(at) => {
                out.push_str("********");
                rest = &tail[at..];
            }
            None => rest = tail,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_never_splits_a_character() {
        assert_eq!(cut("blåbær", 3), "bl");
        assert_eq!(cut("blåbær", 4), "blå");
        assert_eq!(cut("abc", 9), "abc");
    }

    #[test]
    fn printable_takes_out_what_a_database_refuses() {
        assert_eq!(printable(b"a\0b\xff", 16), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn passwords_in_addresses_are_masked() {
        for (text, shown) in [
            ("mqtt://rita:hunter2@broker:1883/x", "mqtt://********@broker:1883/x"),
            (
                "cannot reach http://a:b@c@host, or https://host/?mail=a@b",
                "cannot reach http://********@host, or https://host/?mail=a@b",
            ),
            ("a@b.dk://", "a@b.dk://"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_user_info(text), shown);
        }
    }
}
