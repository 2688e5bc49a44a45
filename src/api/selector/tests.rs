//! Selectors as text: what parses, what matches, what is refused.

use super::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    text.split_whitespace().map(pair).collect()
}

#[test]
fn label_selectors_match_as_documented() {
    for (selector, object, expected) in [
        ("", "a=1", true),
        ("a=1", "a=1", true),
        ("a==1", "a=1 b=2", true),
        ("a=1", "a=2", false),
        ("a!=1", "a=1", false),
        ("a!=1", "b=1", true),
        ("a in (1,2)", "a=2", true),
        ("a in (1,2)", "b=2", false),
        ("a notin (1,2)", "b=2", true),
        ("a notin (1,2)", "a=2", false),
        ("a notin (1,2)", "a=3", true),
        ("a", "a=", true),
        ("!a", "a=", false),
        ("! a", "b=1", true),
        ("a=", "a=", true),
        ("a=,b", "a= b=1", true),
        ("a in (),b", "a= b=1", true),
        ("a>5", "a=6", true),
        ("a<5", "a=6", false),
        ("a>5", "a=x", false),
        ("in in (in,notin)", "in=in", true),
        ("app.kubernetes.io/name = web , tier notin ( back )", "app.kubernetes.io/name=web", true),
    ] {
        let parsed = Selector::parse(selector).unwrap();
        assert_eq!(parsed.matches(&labels(object)), expected, "{selector} on {object}");
        assert_eq!(Selector::parse(&parsed.to_string()).unwrap(), parsed, "{selector}");
    }
}

#[test]
fn canonical_text_is_sorted() {
    let parsed = Selector::parse("z!=1,!c, b in (y,x,x),a==2,d,e notin (q)").unwrap();
    assert_eq!(parsed.to_string(), "a=2,b in (x,y),!c,d,e notin (q),z!=1");
    assert_eq!(parsed.requires("a"), Some("2"));
    assert_eq!(parsed.requires("b"), None);
    assert!(Selector::parse("  ").unwrap().is_everything());
}

#[test]
fn bad_label_selectors_say_what_was_expected() {
    for (selector, message) in [
        ("a=1,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "found 'b', expected: '('"),
        ("a in (b", "found '', expected: ',' or ')'"),
        ("a=1 b=2", "found 'b', expected: ',' or 'end of string'"),
        ("a=!b", "found '!', expected: identifier"),
        ("!(", "found '(', expected: identifier"),
        ("-a=1", "name part must consist of alphanumeric"),
        ("a=-1", "a valid label must be an empty string"),
        ("Foo/a=1", "prefix part a lowercase RFC 1123 subdomain"),
        ("/a", "prefix part must be non-empty"),
        ("a>x", "the value must be an integer"),
        ("ä=1", "name part must consist of alphanumeric"),
    ] {
        let error = Selector::parse(selector).unwrap_err().to_string();
        assert!(error.contains(message), "{selector}: {error}");
    }
    let many = vec!["a"; MAX_TERMS + 1].join(",");
    assert_eq!(Selector::parse(&many).unwrap_err(), SelectorError::TooManyTerms);
    let many = format!("a in ({})", vec!["a"; MAX_TERMS + 1].join(","));
    assert_eq!(Selector::parse(&many).unwrap_err(), SelectorError::TooManyTerms);
}

#[test]
fn typed_selectors_become_requirements() {
    let typed = meta::LabelSelector {
        match_labels: Some(labels("app=web")),
        match_expressions: Some(vec![meta::LabelSelectorRequirement {
            key: "tier".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec!["back".to_owned()]),
        }]),
    };
    let selector = Selector::try_from(&typed).unwrap();
    assert_eq!(selector.to_string(), "app=web,tier notin (back)");
    assert!(selector.matches(&labels("app=web tier=front")));
    assert!(Selector::from_typed(Some(&Default::default())).unwrap().is_everything());
    assert!(!Selector::from_typed(None).unwrap().matches(&labels("a=1")));
    let mut bad = typed.clone();
    bad.match_expressions.as_mut().unwrap()[0].operator = "Near".to_owned();
    let error = Selector::try_from(&bad).unwrap_err();
    assert_eq!(error.to_string(), "\"Near\" is not a valid label selector operator");
    bad.match_expressions.as_mut().unwrap()[0].operator = "Exists".to_owned();
    assert!(Selector::try_from(&bad).is_err());
    assert!(Selector::from_map(&labels("a=1")).unwrap().matches(&labels("a=1 b=2")));
}

#[test]
fn field_selectors_treat_absent_fields_as_empty() {
    let object = |field: &str| match field {
        "metadata.name" => Some("web"),
        "spec.comma" => Some("a,b=c\\"),
        _ => None,
    };
    for (selector, expected) in [
        ("", true),
        ("metadata.name=web", true),
        ("metadata.name==web,", true),
        ("metadata.name!=web", false),
        ("spec.nodeName=", true),
        ("spec.nodeName=n,metadata.name=web", false),
        ("status.phase!=Failed,status.phase!=Succeeded", true),
        ("spec.comma=a\\,b\\=c\\\\", true),
    ] {
        let parsed = FieldSelector::parse(selector).unwrap();
        assert_eq!(parsed.matches(object), expected, "{selector}");
        assert_eq!(FieldSelector::parse(&parsed.to_string()).unwrap(), parsed);
    }
    let parsed = FieldSelector::parse("metadata.name=web,a!=b").unwrap();
    assert_eq!(parsed.requires("metadata.name"), Some("web"));
    assert_eq!(parsed.requires("a"), None);
    assert_eq!(parsed.fields().collect::<Vec<_>>(), ["metadata.name", "a"]);
    for selector in ["metadata.name", "a=b=c", "a=b\\c", "a=b\\", "a!b"] {
        let error = FieldSelector::parse(selector).unwrap_err().to_string();
        assert!(error.contains("can't understand"), "{selector}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,40}", grammar in "[a-c=!,() <>in\\\\]{0,30}") {
        for text in [text, grammar] {
            if let Ok(parsed) = Selector::parse(&text) {
                proptest::prop_assert_eq!(Selector::parse(&parsed.to_string()).unwrap(), parsed);
            }
            if let Ok(parsed) = FieldSelector::parse(&text) {
                proptest::prop_assert_eq!(
                    FieldSelector::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
