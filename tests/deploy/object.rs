use serde::Deserialize;
use serde_json::Value;

/// An object of Kubernetes, as it would be sent to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object(pub(crate) Value);

impl Object {
    /// The objects of a file of several documents.
    pub(crate) fn all_of(yaml: &str) -> Vec<Self> {
        let documents = serde_yaml_ng::Deserializer::from_str(yaml);
        let values = documents.map(|document| Value::deserialize(document).unwrap());
        values.filter(|value| !value.is_null()).map(Self).collect()
    }

    pub(crate) fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap()
    }

    pub(crate) fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap()
    }

    /// Kind and name, for messages.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// What is at a path such as `/spec/replicas`; null if there is nothing.
    pub(crate) fn at(&self, path: &str) -> &Value {
        self.0.pointer(path).unwrap_or(&Value::Null)
    }

    /// The pod that it runs, with metadata and spec, if it runs one.
    pub(crate) fn pod(&self) -> Option<&Value> {
        match self.kind() {
            "Pod" => Some(&self.0),
            "Deployment" | "StatefulSet" | "Job" => Some(self.at("/spec/template")),
            "CronJob" => Some(self.at("/spec/jobTemplate/spec/template")),
            _ => None,
        }
    }

    /// Whether it runs until it is stopped.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.kind(), "Deployment" | "StatefulSet")
    }
}

/// Its containers, those that prepare it too.
pub(crate) fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"].iter().filter_map(|list| pod["spec"][list].as_array()).flatten().collect()
}

/// Whether a selector (`matchLabels`, `matchExpressions` with `In`) takes labels. An empty one takes all.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal
        && expressions.into_iter().all(|expression| {
            assert_eq!(expression["operator"], "In", "this test knows no other operator");
            expression["values"].as_array().unwrap().contains(&labels[expression["key"].as_str().unwrap()])
        })
}

/// Bytes or cores of a quantity such as `512Mi`, `250m` or `2`.
pub(crate) fn quantity(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no quantity"));
    let units = [("Ki", 1024.0), ("Mi", 1048576.0), ("Gi", 1073741824.0), ("m", 0.001)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    unit.map_or_else(|| text.parse().unwrap(), |(number, factor)| number.parse::<f64>().unwrap() * factor)
}
