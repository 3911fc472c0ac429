//! Parses any text as a stopping rule: a rule that is parsed prints text that is parsed to the same rule.
#![no_main]

use earlystop::early_stopping::Rule;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Rule>() {
        Ok(rule) => {
            let again: Rule = rule.to_string().parse().expect("a rule is parsed from the text that it prints");
            assert_eq!(again.to_string(), rule.to_string());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
