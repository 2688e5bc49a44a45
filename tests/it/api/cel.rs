//! Rules in CEL of custom resources.

use serde_json::{Value, json};

use super::Cluster;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIPS: &str = "/apis/example.com/v1/namespaces/default/ships";

/// A definition whose `spec` has this schema.
fn definition(spec: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "ships", "kind": "Ship"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema":
                {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
}

fn ship(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Ship", "metadata": {"name": "a"},
        "spec": spec})
}

fn with_rules(rules: Value) -> Value {
    json!({"type": "object", "x-kubernetes-validations": rules, "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"},
        "name": {"type": "string", "x-kubernetes-validations": [
            {"rule": "self == oldSelf", "message": "a name stays"}]},
        "when": {"type": "string", "format": "date-time"},
        "share": {"x-kubernetes-int-or-string": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self.size() < 4"}]}},
        "crew": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
            "required": ["name"],
            "x-kubernetes-validations": [{"rule": "self.age >= oldSelf.age",
                "messageExpression": "self.name + ' was ' + string(oldSelf.age)",
                "reason": "FieldValueForbidden", "fieldPath": ".age"}],
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}}}})
}

async fn cluster(rules: Value) -> Cluster {
    let cluster = Cluster::new().await;
    cluster.post(DEFINITIONS, &definition(with_rules(rules))).await.expect(201);
    cluster
}

async fn message(cluster: &Cluster, spec: Value) -> String {
    let answer = cluster.post(SHIPS, &ship(spec)).await;
    answer.expect(422)["message"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn objects_that_break_a_rule_are_refused() {
    let rules = json!([
        {"rule": "self.min <= self.max", "messageExpression":
            "'min is ' + string(self.min) + ', above ' + string(self.max)"},
        {"rule": "!has(self.when) || self.when.getFullYear() > 2000", "message": "too old"},
        {"rule": "!has(self.share) || (type(self.share) == int ? self.share < 5 : \
                  self.share.endsWith('%'))"}]);
    let cluster = cluster(rules).await;
    let text = message(&cluster, json!({"min": 3, "max": 2})).await;
    assert_eq!(text, "Ship.example.com \"a\" is invalid: spec: Invalid value: min is 3, above 2");
    let text = message(&cluster, json!({"min": 1, "max": 2, "when": "1999-01-01T00:00:00Z"})).await;
    assert!(text.ends_with("spec: Invalid value: too old"), "{text}");
    let text = message(&cluster, json!({"min": 1, "max": 2, "share": "half"})).await;
    assert!(text.contains("failed rule: !has(self.share)"), "{text}");
    let text = message(&cluster, json!({"max": 2})).await;
    assert!(text.contains("no such key: min evaluating rule: self.min <= self.max"), "{text}");
    let labels = json!({"min": 1, "max": 2, "labels": {"a": "abcd"}});
    let text = message(&cluster, labels).await;
    let wanted = "spec.labels[a]: Invalid value: \"abcd\": failed rule: self.size() < 4";
    assert!(text.ends_with(wanted), "{text}");
    // Where the schema itself is broken, rules are not asked.
    let text = message(&cluster, json!({"min": "x", "max": 2})).await;
    assert!(text.contains("some validation rules were not checked"), "{text}");
    let good = json!({"min": 1, "max": 2, "share": "50%", "when": "2024-01-01T00:00:00Z"});
    cluster.post(SHIPS, &ship(good)).await.expect(201);
}

#[tokio::test]
async fn transitions_compare_with_the_stored_object() {
    let cluster = cluster(json!([])).await;
    let crew = |a: u32, b: u32| json!([{"name": "b", "age": b}, {"name": "a", "age": a}]);
    let object = ship(json!({"name": "x", "crew": crew(30, 20), "labels": {"k": "abc"}}));
    cluster.post(SHIPS, &object).await.expect(201);
    let path = format!("{SHIPS}/a");
    let put = async |change: &dyn Fn(&mut Value)| {
        let mut next = cluster.get(&path).await.expect(200);
        change(&mut next);
        cluster.put(&path, &next).await
    };
    let answer = put(&|next| next["spec"]["name"] = "y".into()).await.expect(422);
    let text = answer["message"].as_str().unwrap();
    assert!(text.ends_with("spec.name: Invalid value: \"y\": a name stays"), "{text}");
    // Elements are found by their keys, wherever they stand.
    let answer = put(&|next| next["spec"]["crew"] = json!([{"name": "a", "age": 29}])).await;
    let answer = answer.expect(422);
    let text = answer["message"].as_str().unwrap();
    assert!(text.ends_with("spec.crew[0].age: Forbidden: a was 30"), "{text}");
    assert_eq!(answer["details"]["causes"][0]["reason"], "FieldValueForbidden");
    put(&|next| {
        next["spec"]["crew"] = json!([{"name": "a", "age": 31}, {"name": "new", "age": 1}])
    })
    .await
    .expect(200);
    // A rule that came later does not hold up who changes something else.
    let mut changed = cluster.get(&format!("{DEFINITIONS}/ships.example.com")).await.expect(200);
    let schema = &mut changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let labels = &mut schema["properties"]["spec"]["properties"]["labels"];
    labels["additionalProperties"]["x-kubernetes-validations"][0]["rule"] = "self == 'z'".into();
    cluster.put(&format!("{DEFINITIONS}/ships.example.com"), &changed).await.expect(200);
    put(&|next| next["spec"]["min"] = 1.into()).await.expect(200);
    put(&|next| next["spec"]["labels"]["k"] = "b".into()).await.expect(422);
}

#[tokio::test]
async fn optional_old_self_is_asked_at_creation_too() {
    let rules = json!([{"rule": "oldSelf.hasValue() || self.min == 1", "optionalOldSelf": true}]);
    let cluster = cluster(rules).await;
    message(&cluster, json!({"min": 2})).await;
    cluster.post(SHIPS, &ship(json!({"min": 1}))).await.expect(201);
}

#[tokio::test]
async fn definitions_with_bad_rules_are_refused() {
    let cluster = Cluster::new().await;
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    let cases = [
        (json!({"rule": "self.mni < 3"}), "rule", "undefined field 'mni'"),
        (json!({"rule": "self.min <"}), "rule", "Syntax error"),
        (json!({"rule": "self.min"}), "rule", "cel expression must evaluate to a bool"),
        (json!({"rule": "self.min + 'a' == ''"}), "rule", "no matching overload"),
        (json!({"rule": "selfish.min == 1"}), "rule", "undeclared reference to 'selfish'"),
        (json!({"rule": " "}), "rule", "rule is not specified"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression", "a string"),
        (json!({"rule": "true", "reason": "Nonsense"}), "reason", "supported values"),
        (json!({"rule": "true", "fieldPath": ".nothing"}), "fieldPath", "must be a valid path"),
        (json!({"rule": "true", "message": "a\nb"}), "message", "must not contain line breaks"),
        (json!({"rule": "true", "optionalOldSelf": true}), "optionalOldSelf", "may not be set"),
        (json!({"rule": format!("self.min > {}1", "-".repeat(50_000))}), "rule", "recursion"),
    ];
    for (rule, field, why) in cases {
        let spec = with_rules(json!([rule]));
        let answer = cluster.post(DEFINITIONS, &definition(spec)).await.expect(422);
        let cause = &answer["details"]["causes"][0];
        assert_eq!(cause["field"], format!("{at}.{field}"), "{answer}");
        assert!(cause["message"].as_str().unwrap().contains(why), "{answer}");
    }
    let mut spec = with_rules(json!([]));
    spec["properties"]["crew"]["x-kubernetes-list-type"] = "atomic".into();
    spec["properties"]["crew"].as_object_mut().unwrap().remove("x-kubernetes-list-map-keys");
    let answer = cluster.post(DEFINITIONS, &definition(spec)).await.expect(422);
    assert!(answer["message"].as_str().unwrap().contains("uncorrelatable"), "{answer}");
    let many: Vec<Value> = (0..1001).map(|_| json!({"rule": "true"})).collect();
    let spec = with_rules(json!(many));
    cluster.post(DEFINITIONS, &definition(spec)).await.expect(422);
}

#[tokio::test]
async fn rules_that_cost_too_much_fail_the_request() {
    let rules = json!([{"rule": "lists.range(500).all(a, lists.range(500).all(b, a + b >= 0))",
        "message": "costly"}]);
    let cluster = cluster(rules).await;
    let text = message(&cluster, json!({"min": 2})).await;
    assert!(text.contains("actual cost limit exceeded"), "{text}");
    assert!(text.contains("no further validation rules will be run"), "{text}");
    // Each within its limit, and too many of them.
    let cluster = Cluster::new().await;
    let rule = json!({"rule": "lists.range(9000).all(a, lists.range(5).all(b, a + b >= 0))"});
    let spec = with_rules(json!(vec![rule; 40]));
    cluster.post(DEFINITIONS, &definition(spec)).await.expect(201);
    let text = message(&cluster, json!({"min": 2})).await;
    assert!(text.contains("running out of cost budget"), "{text}");
}

#[tokio::test]
async fn definitions_whose_rules_may_cost_too_much_are_refused() {
    let cluster = Cluster::new().await;
    let base = "spec.versions[0].schema.openAPIV3Schema";
    let words = |rules: Value, bounds: Value| {
        let mut list = json!({"type": "array", "items": {"type": "string"}});
        list["x-kubernetes-validations"] = rules;
        for (field, value) in bounds.as_object().unwrap() {
            match field.as_str() {
                "maxLength" => list["items"][field] = value.clone(),
                _ => list[field] = value.clone(),
            }
        }
        definition(json!({"type": "object", "properties": {"words": list}}))
    };
    let causes = async |definition: Value| -> Vec<(String, String)> {
        let answer = cluster.post(DEFINITIONS, &definition).await.expect(422);
        let causes = answer["details"]["causes"].as_array().unwrap().iter();
        let text = |cause: &Value, name: &str| cause[name].as_str().unwrap().to_string();
        causes.map(|cause| (text(cause, "field"), text(cause, "message"))).collect()
    };
    let all = json!([{"rule": "self.all(a, self.all(b, a != b))"}]);
    let found = causes(words(all.clone(), json!({}))).await;
    let at = format!("{base}.properties[spec].properties[words].x-kubernetes-validations[0].rule");
    assert_eq!(found[0].0, at);
    let wanted = "Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try \
                  simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
                  arrays, maps, and strings are declared)";
    assert_eq!(found[0].1, wanted);
    assert_eq!(found[1].0, at);
    assert_eq!(
        found[1].1,
        "Forbidden: contributed to estimated rule & messageExpression cost total exceeding cost \
         limit for entire OpenAPIv3 schema"
    );
    assert_eq!(found[2].0, base);
    assert!(found[2].1.contains("cost total for entire OpenAPIv3 schema exceeds budget by"));
    // Each rule is within its limit, and the list within its bounds.
    let bounds = json!({"maxItems": 300, "maxLength": 200});
    let rule = json!({"rule": "self.all(a, self.all(b, a != b))",
        "messageExpression": "'words: ' + self.join(', ')"});
    let found = causes(words(json!(vec![rule.clone(); 14]), bounds.clone())).await;
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found[4].1.contains("exceeds budget by factor of 1."), "{found:?}");
    cluster.post(DEFINITIONS, &words(json!([rule]), bounds)).await.expect(201);
    // What is there already may be changed beside its rules; new rules are looked at.
    let path = format!("{DEFINITIONS}/ships.example.com");
    cluster.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    let mut stored = cluster.get(&path).await.expect(200);
    let words = &mut stored["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        ["properties"]["words"];
    words.as_object_mut().unwrap().remove("maxItems");
    cluster.put(&path, &stored).await.expect(422);
}
