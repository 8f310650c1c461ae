//! The resolv.conf of a task: our resolver first, the task's own DNS options after it.

use std::fmt::Write;
use std::net::Ipv4Addr;

use skep_control::model::DnsConfig;

/// The search domains of the node's own resolv.conf: what Docker gives a container that asks for none.
pub fn search_of(resolv_conf: &str) -> Vec<String> {
    let last = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .rfind(|rest| rest.starts_with(char::is_whitespace));
    last.map(|rest| rest.split_whitespace().map(str::to_string).collect())
        .unwrap_or_default()
}

/// Text of the file. `ndots:0` unless the task says otherwise, as Docker writes it on user-defined networks: a
/// service's bare name is asked as it stands.
pub fn resolv_conf(resolver: Ipv4Addr, host_search: &[String], dns: Option<&DnsConfig>) -> String {
    let empty = DnsConfig::default();
    let dns = dns.unwrap_or(&empty);
    let search = if dns.search.is_empty() {
        host_search
    } else {
        &dns.search
    };
    let mut text = format!("nameserver {resolver}\n");
    for server in &dns.nameservers {
        line(&mut text, "nameserver", server);
    }
    // "." stands for no search domain (docker --dns-search=.).
    if !search.is_empty() && search != ["."] {
        line(&mut text, "search", &search.join(" "));
    }
    let mut options = dns.options.clone();
    if !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".to_string());
    }
    line(&mut text, "options", &options.join(" "));
    text
}

fn line(text: &mut String, key: &str, value: &str) {
    writeln!(text, "{key} {value}").expect("a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_resolver_comes_first() {
        let dns = DnsConfig {
            nameservers: vec!["9.9.9.9".into()],
            search: vec!["shop.example".into()],
            options: vec!["timeout:1".into()],
        };
        let text = resolv_conf(Ipv4Addr::new(169, 254, 7, 53), &["lan".into()], Some(&dns));
        let expected =
            "nameserver 169.254.7.53\nnameserver 9.9.9.9\nsearch shop.example\noptions timeout:1 ndots:0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_node_s_search_domains_are_the_default() {
        let host = search_of("# search no\nsearch lan example.org\nnameserver 1.1.1.1\n");
        assert_eq!(host, ["lan", "example.org"]);
        let text = resolv_conf(Ipv4Addr::new(169, 254, 7, 53), &host, None);
        assert_eq!(
            text,
            "nameserver 169.254.7.53\nsearch lan example.org\noptions ndots:0\n"
        );
    }
}
