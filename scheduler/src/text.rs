//! What must hold of a text from a stranger before a parser sees it.

/// Checks what must hold before a parser sees a text: that it is UTF-8, and not nested too deep.
pub(crate) fn check_text(body: &[u8], depth: usize) -> Result<(), String> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to()));
    }
    match deeper_than(body, depth) {
        None => Ok(()),
        Some(at) => Err(format!("the body is nested deeper than {depth} levels at byte {at} (limits.json_depth)")),
    }
}

/// Whether a text is a trace's parent as W3C writes it:
/// <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return false };
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && text.len() <= 256
}

/// Where JSON is nested deeper than `limit` for the first time. Sound for any
/// bytes: what it lets pass never nests deeper, whether it is JSON or not.
fn deeper_than(json: &[u8], limit: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings_only() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert_eq!(deeper_than(deep.as_bytes(), 64), Some(64));
        assert_eq!(deeper_than(br#"{"a":"[[[[\"[[["}"#, 1), None);
    }

    proptest! {
        #[test]
        fn what_passes_never_nests_deeper_than_the_limit(bytes: Vec<u8>, limit in 0_usize..20) {
            if deeper_than(&bytes, limit).is_none() && let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
                prop_assert!(depth(&value) <= limit);
            }
        }

        #[test]
        fn brackets_within_the_limit_pass(depth in 0_usize..60) {
            let text = "[".repeat(depth) + "1" + &"]".repeat(depth);
            prop_assert!(check_text(text.as_bytes(), 60).is_ok());
        }
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}
