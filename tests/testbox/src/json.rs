//! Just enough JSON to print flat objects of strings.

/// `text` as a JSON string, quotes included.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The string that `name` has in a flat object that [`string`] wrote; empty if there is none.
pub fn field<'a>(object: &'a str, name: &str) -> &'a str {
    let head = format!("\"{name}\":\"");
    let rest = object.split_once(&head).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_field_is_found_by_its_name() {
        let object = r#"{"hostname":"abc","task":"","client_port":5}"#;
        assert_eq!(super::field(object, "hostname"), "abc");
        assert_eq!(super::field(object, "task"), "");
        assert_eq!(super::field(object, "absent"), "");
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(super::string("a\"b\\c\n\u{1}"), r#""a\"b\\c\n\u0001""#);
    }
}
