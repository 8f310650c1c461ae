//! Image references (distribution/reference grammar): `[domain/]path[:tag][@digest]`.

use std::sync::LazyLock;

use regex::Regex;

static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
    let domain = r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?";
    let component = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*";
    let tag = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let pattern = format!(r"^(?:{domain}/)?{component}(?:/{component})*(?::{tag})?(?:@{digest})?$");
    Regex::new(&pattern).expect("the pattern is fixed")
});

pub fn is_reference(text: &str) -> bool {
    text.len() <= 1024 && REFERENCE.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("web@sha256:{}", "a".repeat(64));
        for good in [
            "busybox",
            "busybox:1.36",
            "shop/web:latest",
            "r.example:5000/a/b_c:v1",
            "localhost/a",
            &digest,
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "Busybox",
            "a:b:c",
            "a//b",
            "a@sha256:12",
            "a b",
            "-a",
            "http://a/b",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
