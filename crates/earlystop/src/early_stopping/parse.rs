//! Reads rules from the text that they print.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::patience::MinDelta;
use super::words::{KNOWN, OWN, belongs_to_a_word, ends_a_name};
use super::{Metric, Patience, Rule};
use crate::error::{Error, Result};

/// How deep rules may be nested, so that no text can exhaust the stack.
const MAX_DEPTH: usize = 100;

/// Parses what a rule prints. The words may be further apart.
///
/// # Errors
///
/// [`Error::RuleSyntax`] names the position, what is expected there and what was found. [`Rule::check`] is not called.
impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parser = Parser::new(text);
        let rule = parser.combination()?;
        if parser.rest().is_empty() { Ok(rule) } else { Err(parser.expected("`or`, `and`, `on` or the end")) }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// How many bytes are read.
    at: usize,
    /// How many rules are around the next one.
    depth: usize,
    /// How many rules are within each other in the last one.
    height: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, height: 0 }
    }

    /// Rules joined by one word.
    fn combination(&mut self) -> Result<Rule> {
        let mut rules = vec![self.part()?];
        let is_any = match self.word() {
            "or" => true,
            "and" => false,
            _ => return Ok(rules.swap_remove(0)),
        };
        let mut height = self.height;
        while self.takes_word(if is_any { "or" } else { "and" }) {
            rules.push(self.part()?);
            height = height.max(self.height);
        }
        self.height = height + 1;
        match self.word() {
            "or" | "and" => Err(self.expected("parentheses where `or` and `and` are mixed")),
            _ => Ok(if is_any { Rule::AnyOf(rules) } else { Rule::AllOf(rules) }),
        }
    }

    /// A rule, and the scores that it is to monitor.
    fn part(&mut self) -> Result<Rule> {
        self.depth += 1;
        self.check_nesting(self.depth)?;
        let mut rule = self.rule()?;
        self.depth -= 1;
        while self.takes_word("on") {
            rule = rule.on(self.metric()?);
            self.height += 1;
            self.check_nesting(self.height)?;
        }
        Ok(rule)
    }

    fn check_nesting(&mut self, rules: usize) -> Result<()> {
        if rules <= MAX_DEPTH {
            Ok(())
        } else {
            Err(self.expected(format!("at most {MAX_DEPTH} rules within each other")))
        }
    }

    fn rule(&mut self) -> Result<Rule> {
        if self.takes("(") {
            let rule = self.combination()?;
            self.takes_all(")")?;
            return Ok(rule);
        }
        self.height = 1;
        let begin = self.at;
        let name = self.word();
        self.at += name.len();
        match name {
            "never" => Ok(Rule::never()),
            _ if !KNOWN.contains(&name) => {
                self.at = begin;
                Err(self.unknown())
            }
            _ => {
                self.takes_all("(")?;
                let rule = self.arguments(name)?;
                self.takes_all(")")?;
                Ok(rule)
            }
        }
    }

    fn arguments(&mut self, name: &str) -> Result<Rule> {
        Ok(match name {
            "patience" => self.patience()?.into(),
            "noise-aware" => {
                let patience = self.number("a number of iterations")?;
                self.takes_all(",p<")?;
                Rule::NoiseAware { patience, significance: self.number("a probability")? }
            }
            "GL" => Rule::GeneralizationLoss { alpha: self.number("a number")? },
            "PQ" => Rule::ProgressQuotient { alpha: self.number("a number")?, strip: self.strip()? },
            "UP" => Rule::SuccessiveRises { strips: self.number("a number of strips")?, strip: self.strip()? },
            "iterations" => Rule::Iterations(self.number("a number of iterations")?),
            "time" => Rule::Time(self.duration()?),
            "target" => Rule::Target(self.number("a number")?),
            "divergence" => Rule::Divergence(self.number("a number")?),
            "named" => {
                let name = self.quoted()?;
                self.takes_all(",")?;
                let rule = self.combination()?;
                self.height += 1;
                rule.named(name)
            }
            _ => {
                let is_empty = self.rest().starts_with(')');
                let rules = if is_empty { Vec::new() } else { vec![self.combination()?] };
                self.height += 1;
                if name == "any_of" { Rule::AnyOf(rules) } else { Rule::AllOf(rules) }
            }
        })
    }

    fn patience(&mut self) -> Result<Patience> {
        let length = self.number("a number of iterations, evaluations or epochs")?;
        let unit = self.word();
        let (new, is_named): (fn(u64) -> Patience, _) = match unit {
            "iteration" | "iterations" => (Patience::new, true),
            "evaluation" | "evaluations" => (Patience::evaluations, true),
            "epoch" | "epochs" => (Patience::epochs, true),
            _ => (Patience::new, false),
        };
        let mut patience = new(length);
        self.at += if is_named { unit.len() } else { 0 };
        if self.takes_word("on") {
            patience = patience.on(self.metric()?);
        }
        while self.takes(",") {
            let argument = self.word();
            let begin = self.at;
            self.at += argument.len();
            patience = match argument {
                "min" if self.takes_word("delta") => Patience { min_delta: self.min_delta()?, ..patience },
                "smoothing" => patience.smoothing(self.number("a number")?),
                "warm-up" => patience.warm_up(self.number("a whole number")?),
                "baseline" => patience.baseline(self.number("a number")?),
                _ => {
                    self.at = begin; // not by the length: what follows `min` has been looked at
                    return Err(self.expected("`min delta`, `smoothing`, `warm-up` or `baseline`"));
                }
            };
        }
        Ok(patience)
    }

    fn min_delta(&mut self) -> Result<MinDelta> {
        let digits = self.token();
        let delta = self.number("a number")?;
        if !self.takes("%") {
            return Ok(MinDelta::Absolute(delta));
        }
        // Rounded once, from the digits; an exponent or a word cannot be followed by another exponent.
        Ok(MinDelta::Relative(format!("{digits}e-2").parse().unwrap_or(delta / 100.0)))
    }

    fn strip(&mut self) -> Result<usize> {
        self.takes_all(",")?;
        if self.takes_word("strip") { self.number("a number of evaluations") } else { Err(self.expected("`strip`")) }
    }

    /// Hours, minutes and seconds: `0:10:00`, `0:00:28.25`.
    fn duration(&mut self) -> Result<Duration> {
        let duration = duration(self.token());
        let duration = duration.ok_or_else(|| self.expected("hours, minutes and seconds, such as `0:10:00`"))?;
        self.at += self.token().len();
        Ok(duration)
    }

    fn metric(&mut self) -> Result<Metric> {
        let direction = self.word();
        let begin = self.at;
        self.at += direction.len();
        match direction {
            "loss" => Ok(Metric::validation_loss()),
            "lower" => Ok(Metric::lower(self.name()?)),
            "higher" => Ok(Metric::higher(self.name()?)),
            _ => {
                self.at = begin;
                Err(self.expected("`loss`, `lower` or `higher`"))
            }
        }
    }

    /// The name of a score.
    fn name(&mut self) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let name = self.until(ends_a_name);
        if name.is_empty() {
            return Err(self.expected("the name of a score"));
        }
        self.at += name.len();
        Ok(name.to_owned())
    }

    fn quoted(&mut self) -> Result<String> {
        let mut strings = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        match strings.next() {
            Some(Ok(name)) => {
                self.at += strings.byte_offset();
                Ok(name)
            }
            _ => Err(self.expected("a name in quotes, as in JSON")),
        }
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let token = self.token();
        let number = token.parse().map_err(|_| self.expected(what))?;
        self.at += token.len();
        Ok(number)
    }

    /// The next characters, without spaces before them.
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn until(&mut self, ends: impl FnMut(char) -> bool) -> &'a str {
        self.rest().split(ends).next().unwrap_or_default()
    }

    /// The next word, which may be empty.
    fn word(&mut self) -> &'a str {
        self.until(|character| !belongs_to_a_word(character))
    }

    /// The next number or time, which may be empty.
    fn token(&mut self) -> &'a str {
        self.until(|character| ends_a_name(character) || character == '%')
    }

    fn takes(&mut self, text: &str) -> bool {
        let takes = self.rest().starts_with(text);
        self.at += if takes { text.len() } else { 0 };
        takes
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let takes = self.word() == word;
        self.at += if takes { word.len() } else { 0 };
        takes
    }

    /// Takes characters that must come next.
    fn takes_all(&mut self, characters: &str) -> Result<()> {
        characters.split("").filter(|character| !character.is_empty()).try_for_each(|character| {
            if self.takes(character) { Ok(()) } else { Err(self.expected(format!("`{character}`"))) }
        })
    }

    fn expected(&mut self, expected: impl Display) -> Error {
        let found = match (self.word(), self.rest().chars().next()) {
            (_, None) => "the end".to_owned(),
            ("", Some(character)) => format!("`{character}`"),
            (word, _) => format!("`{word}`"),
        };
        self.refuse(expected, found)
    }

    fn unknown(&mut self) -> Error {
        if self.word().is_empty() {
            return self.expected("the name of a rule");
        }
        let known = format!("a rule: known are {}", KNOWN.join(", "));
        if self.word() == OWN {
            return self.refuse(known, "a rule of a program's own, which is not parsed".to_owned());
        }
        let name = self.until(|character| character == ',');
        let found = format!(
            "{name:?}; a rule of a program's own is not parsed, and a name given by Rule::named only with its rule, as `{{:#}}` prints it"
        );
        self.refuse(known, found)
    }

    fn refuse(&self, expected: impl Display, found: String) -> Error {
        let position = self.text[..self.at].chars().count() + 1;
        Error::RuleSyntax { rule: self.text.to_owned(), position, expected: expected.to_string(), found }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let sixty = |text: &str| text.parse::<u64>().ok().filter(|&number| number < 60);
    let hours = hours.parse::<u64>().ok()?.checked_mul(3600)?;
    let seconds = hours.checked_add(60 * sixty(minutes)? + sixty(seconds)?)?;
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let nanos = if is_fraction { format!("{fraction:0<9}").parse().ok()? } else { return None };
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names with all that has a meaning in the text of a rule.
    fn names() -> impl Strategy<Value = String> {
        const PARTS: &[&str] = &[
            "mine",
            "patience(5)",
            " or ",
            " and ",
            " on ",
            "lower",
            "(",
            ")",
            ",",
            "\"",
            "\\",
            "\n",
            "ö",
            "名",
            " ",
            "%",
            "never",
            "validation_rmse",
            "named(",
            "\u{a0}",
            "\u{3000}",
            ", min",
            "\0",
        ];
        let part =
            prop_oneof![prop::sample::select(PARTS).prop_map(String::from), any::<char>().prop_map(String::from)];
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
    }

    fn numbers() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>(),
            any::<u64>().prop_map(f64::from_bits),
            (0..1000u32).prop_map(|part| f64::from(part) / 1000.0)
        ]
    }

    fn metrics() -> impl Strategy<Value = Metric> {
        let named = (names(), any::<bool>());
        let metric = |(name, lower): (String, bool)| if lower { Metric::lower(name) } else { Metric::higher(name) };
        prop_oneof![3 => named.prop_map(metric), 1 => Just(Metric::validation_loss())]
    }

    fn patiences() -> impl Strategy<Value = Patience> {
        let new = prop::sample::select(&[Patience::new, Patience::evaluations, Patience::epochs][..]);
        let options = (any::<bool>(), numbers(), numbers(), any::<u64>(), prop::option::of(numbers()));
        let length = prop_oneof![any::<u64>(), 0..3u64];
        (new, length, prop::option::of(metrics()), options).prop_map(
            |(new, length, metric, (is_relative, delta, smoothing, warm_up, baseline))| {
                let patience = new(length).smoothing(smoothing).warm_up(warm_up);
                let min_delta = if is_relative { MinDelta::Relative(delta) } else { MinDelta::Absolute(delta) };
                Patience { metric, min_delta, baseline, ..patience }
            },
        )
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let leaf = prop_oneof![
            3 => patiences().prop_map(Rule::from),
            1 => (any::<u64>(), numbers()).prop_map(|(patience, significance)| Rule::NoiseAware { patience, significance }),
            1 => numbers().prop_map(Rule::generalization_loss),
            1 => (numbers(), any::<usize>()).prop_map(|(alpha, strip)| Rule::progress_quotient(alpha, strip)),
            1 => any::<[usize; 2]>().prop_map(|[strips, strip]| Rule::successive_rises(strips, strip)),
            1 => any::<u64>().prop_map(Rule::iterations),
            1 => any::<u64>().prop_map(|seconds| Rule::time(Duration::from_secs(seconds))),
            1 => (any::<u64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Rule::time(Duration::new(seconds, nanos))),
            1 => numbers().prop_map(Rule::target),
            1 => numbers().prop_map(Rule::divergence),
        ];
        leaf.prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Rule::any_of),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Rule::all_of),
                (inner.clone(), names()).prop_map(|(rule, name)| rule.named(name)),
                (inner, metrics()).prop_map(|(rule, metric)| rule.on(metric)),
            ]
        })
    }

    fn has_names(rule: &Rule) -> bool {
        match rule {
            Rule::Named { .. } => true,
            Rule::AnyOf(rules) | Rule::AllOf(rules) => rules.iter().any(has_names),
            Rule::On { rule, .. } => has_names(rule),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn what_a_rule_prints_is_the_rule(rule in rules()) {
            let full = format!("{rule:#}");
            // Debug representations, since NaN equals itself there and -0 is not 0.
            let parsed: Rule = full.parse().map_err(|error| TestCaseError::fail(format!("{full}: {error}")))?;
            prop_assert_eq!(format!("{parsed:?}"), format!("{rule:?}"), "{}", full);
            if !has_names(&rule) {
                prop_assert_eq!(rule.to_string(), full);
            }
        }

        #[test]
        fn any_text_is_a_rule_or_an_error(rule in rules(), at in any::<prop::sample::Index>(), other in names(), cut in 0..9usize) {
            let text: Vec<char> = format!("{rule:#}").chars().collect();
            let at = at.index(text.len());
            let after = text.iter().skip(at + cut);
            let text: String = text[..at].iter().copied().chain(other.chars()).chain(after.copied()).collect();
            if let Ok(rule) = text.parse::<Rule>() {
                let again: Rule = format!("{rule:#}").parse().unwrap();
                prop_assert_eq!(format!("{again:?}"), format!("{rule:?}"));
            }
        }

        #[test]
        fn a_name_is_never_taken_for_another_rule(name in names(), rule in rules()) {
            if let Ok(other) = rule.named(name).to_string().parse::<Rule>() {
                prop_assert!(false, "{other}");
            }
        }
    }

    #[test]
    fn what_was_printed_by_earlier_versions_is_read() {
        let texts = [
            "patience(1000)",
            "patience(1000 on loss, min delta 1%, smoothing 0.9, warm-up 500, baseline 0.3)",
            "patience(1000) on lower validation_rmse",
            "patience(10 evaluations) or patience(1 epoch on loss)",
            "(GL(5) and UP(3, strip 5)) or PQ(0.5, strip 5) or noise-aware(1000, p < 0.05)",
            "(patience(1000) or target(2.5)) on lower validation_rmse",
            "iterations(500) or time(25:10:00)",
            "never",
        ];
        for text in texts {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        let spaced = "  patience( 1000 on  loss ,min delta 7 % )or(GL( 5 ))".parse::<Rule>().unwrap();
        assert_eq!(spaced.to_string(), "patience(1000 on loss, min delta 7%) or GL(5)");
    }

    #[test]
    fn only_what_could_be_taken_for_something_else_is_printed_in_another_way() {
        let printed = [
            (Rule::any_of([Rule::patience(5)]), "any_of(patience(5))"),
            (Rule::all_of([Rule::patience(5)]), "all_of(patience(5))"),
            (Rule::all_of([]), "all_of()"),
            (Rule::time(Duration::from_millis(1500)), "time(0:00:01.5)"),
            (Rule::patience(5).on(Metric::lower("my score")), r#"patience(5) on lower "my score""#),
            (Rule::iterations(7).named("patience(5)"), r#""patience(5)""#),
            (Rule::iterations(7).named("patience 5"), "patience 5"),
        ];
        for (rule, text) in printed {
            assert_eq!(rule.to_string(), text);
        }
    }

    #[test]
    fn an_error_says_where_and_what_was_expected() {
        let cases = [
            ("", "character 1", "the name of a rule, found the end"),
            ("patience(", "character 10", "a number of iterations, evaluations or epochs, found the end"),
            ("patience(-1)", "character 10", "a number of iterations, evaluations or epochs, found `-1`"),
            ("ö(5) or GL(5)", "character 1", "a rule: known are patience, noise-aware, GL, PQ, UP, iterations,"),
            ("GL(5) or mine", "character 10", "a rule: known are patience,"),
            ("GL(5) or", "character 9", "the name of a rule, found the end"),
            (
                "GL(5) or UP(3, strip 5) and GL(6)",
                "character 25",
                "parentheses where `or` and `and` are mixed, found `and`",
            ),
            ("GL(5) x", "character 7", "`or`, `and`, `on` or the end, found `x`"),
            ("GL(5", "character 5", "`)`, found the end"),
            ("time(10)", "character 6", "hours, minutes and seconds, such as `0:10:00`, found `10`"),
            ("time(0:60:00)", "character 6", "hours, minutes and seconds"),
            ("noise-aware(5, q < 0.1)", "character 16", "`p`, found `q`"),
            (
                "patience(5, min\u{3000} 3)",
                "character 13",
                "`min delta`, `smoothing`, `warm-up` or `baseline`, found `min`",
            ),
            ("UP(3, 5)", "character 7", "`strip`, found `5`"),
            ("GL(5) on rmse", "character 10", "`loss`, `lower` or `higher`, found `rmse`"),
            ("GL(5) on lower", "character 15", "the name of a score, found the end"),
            ("named(mine, GL(5))", "character 7", "a name in quotes, as in JSON, found `mine`"),
        ];
        for (text, position, expected) in cases {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{position} of the rule {text:?}: expected {expected}")), "{error}");
        }
        let unknown = "mine(3)".parse::<Rule>().unwrap_err().to_string();
        assert!(
            unknown.contains(r#"named, found "mine(3)"; a rule of a program's own is not parsed, and a name given by"#),
            "{unknown}"
        );
    }

    #[test]
    fn no_text_exhausts_the_stack() {
        let deep = |depth: usize| format!("{}GL(5){}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(deep(MAX_DEPTH - 1).parse::<Rule>().unwrap(), Rule::generalization_loss(5.0));
        let texts = [deep(100_000), "any_of(".repeat(100_000), "GL(5)".to_owned() + &" on loss".repeat(100_000)];
        for text in texts {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains("expected at most 100 rules within each other"));
        }
    }
}
