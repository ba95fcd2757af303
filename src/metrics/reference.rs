//! The reference page of all metrics, in Markdown.

use super::{FAMILIES, Family, Label};

/// Tables of metrics, of the values of their labels, and of buckets.
pub fn reference() -> String {
    let mut page = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family @ Family { name, kind, labels, .. } in FAMILIES {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        page.push_str(&format!("| `{name}` | {kind} | {} | {} |\n", labels.join(", "), family.meaning()));
    }
    page.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for label in labels() {
        page.push_str(&format!("| {} | {} |\n", title(&label), values(&label)));
    }
    page.push_str("\n## Buckets\n\n| histogram | upper bounds, in seconds |\n|---|---|\n");
    for Family { name, buckets, .. } in FAMILIES.iter().filter(|family| !family.buckets.is_empty()) {
        let buckets: Vec<_> = buckets.iter().map(ToString::to_string).collect();
        page.push_str(&format!("| `{name}` | {} |\n", buckets.join(", ")));
    }
    page
}

/// Every label once, in the order in which metrics have them.
fn labels() -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    for label in FAMILIES.iter().flat_map(|family| family.labels) {
        if !labels.iter().any(|known| (known.name, known.of) == (label.name, label.of)) {
            labels.push(*label);
        }
    }
    labels
}

fn title(label: &Label) -> String {
    if label.of.is_empty() { format!("`{}`", label.name) } else { format!("`{}` of {}", label.name, label.of) }
}

fn values(label: &Label) -> String {
    let value = |(value, meaning): &(&str, &str)| {
        let meaning = meaning.trim();
        if meaning.is_empty() { format!("`{value}`") } else { format!("`{value}` ({meaning})") }
    };
    let others = (!label.others.is_empty()).then(|| label.others.to_owned());
    others.into_iter().chain(label.values.iter().map(value)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_tells_of_every_metric() {
        let page = include_str!("../../docs/metrics.md");
        assert!(page.contains(&reference()), "write it anew with 'just docs'");
    }
}
