//! Swarm's templates in hostname, environment and mounts (swarmkit template/context.go): placeholders only,
//! no functions, no control structures.

use std::collections::BTreeMap;

/// What placeholders stand for.
#[derive(Clone, Debug, Default)]
pub struct TemplateValues<'a> {
    pub service_id: &'a str,
    pub service_name: &'a str,
    pub service_labels: Option<&'a BTreeMap<String, String>>,
    pub node_id: &'a str,
    pub node_hostname: &'a str,
    pub node_os: &'a str,
    pub node_architecture: &'a str,
    pub task_id: &'a str,
    pub task_name: &'a str,
    pub task_slot: String,
}

/// A text that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expanding {text:?} failed: {reason}")]
pub struct TemplateError {
    text: String,
    reason: String,
}

/// `text` with every `{{...}}` replaced.
///
/// # Errors
/// [`TemplateError`] for a placeholder that is not known or not closed.
pub fn expand(text: &str, values: &TemplateValues) -> Result<String, TemplateError> {
    let error = |reason: String| TemplateError {
        text: text.to_string(),
        reason,
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (inner, after) = after
            .split_once("}}")
            .ok_or_else(|| error("unclosed action".into()))?;
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-');
        let value =
            lookup(name, values).ok_or_else(|| error(format!("{name:?} is not a field that Swarm knows")))?;
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup<'a>(name: &str, values: &'a TemplateValues) -> Option<&'a str> {
    if let Some(label) = name.strip_prefix(".Service.Labels.") {
        return label_of(label, values);
    }
    if let Some(rest) = name.strip_prefix("index .Service.Labels ") {
        let label = rest.trim().strip_prefix('"')?.strip_suffix('"')?;
        return label_of(label, values);
    }
    let value = match name {
        ".Service.ID" => values.service_id,
        ".Service.Name" => values.service_name,
        ".Node.ID" => values.node_id,
        ".Node.Hostname" => values.node_hostname,
        ".Node.Platform.OS" => values.node_os,
        ".Node.Platform.Architecture" => values.node_architecture,
        ".Task.ID" => values.task_id,
        ".Task.Name" => values.task_name,
        ".Task.Slot" => &values.task_slot,
        _ => return None,
    };
    Some(value)
}

fn label_of<'a>(label: &str, values: &'a TemplateValues) -> Option<&'a str> {
    values.service_labels?.get(label).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> TemplateValues<'static> {
        TemplateValues {
            service_name: "web",
            node_hostname: "n1",
            task_slot: "3".to_string(),
            ..TemplateValues::default()
        }
    }

    #[test]
    fn placeholders_are_replaced() {
        let text = "{{.Service.Name}}-{{ .Task.Slot }}@{{.Node.Hostname}}";
        assert_eq!(expand(text, &values()).unwrap(), "web-3@n1");
        assert_eq!(expand("plain } text {", &values()).unwrap(), "plain } text {");
    }

    #[test]
    fn what_is_unknown_is_an_error_that_names_it() {
        let error = expand("{{.Task.Colour}}", &values()).unwrap_err().to_string();
        assert!(error.contains(".Task.Colour"), "{error}");
        assert!(expand("{{.Task.Slot", &values()).is_err());
        assert!(expand("{{.Service.Labels.absent}}", &values()).is_err());
    }

    #[test]
    fn labels_are_found_by_either_spelling() {
        let labels = BTreeMap::from([("a".to_string(), "b".to_string())]);
        let values = TemplateValues {
            service_labels: Some(&labels),
            ..values()
        };
        assert_eq!(expand("{{.Service.Labels.a}}", &values).unwrap(), "b");
        assert_eq!(expand("{{index .Service.Labels \"a\"}}", &values).unwrap(), "b");
    }
}
