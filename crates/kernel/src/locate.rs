//! Maps lines of the compiled source to lines of cells.
//!
//! evcxr writes the statements and items of cells verbatim into one file, but in a different order.

/// A line of one of the cells.
#[derive(Debug, PartialEq)]
pub(crate) struct Place<'a> {
    /// The index of the cell.
    pub(crate) cell: usize,
    /// The line in the cell, from 1.
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

/// Finds line `number` of `source` in the cells: the line with the same text, or of several such lines the one with the
/// most matching lines around it. Earlier cells of the iterator win ties.
pub(crate) fn find<'a>(source: &str, number: usize, cells: impl Iterator<Item = &'a str>) -> Option<Place<'a>> {
    let source: Vec<&str> = source.lines().map(str::trim).collect();
    let at = number.checked_sub(1).filter(|&at| source.get(at).is_some_and(|line| !line.is_empty()))?;
    let mut best: Option<(usize, Place)> = None;
    for (cell, code) in cells.enumerate() {
        let lines: Vec<&str> = code.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            // Statements that share a line in the cell are on separate lines in the source.
            if *line != source[at] && !(source[at].len() > 3 && line.contains(source[at])) {
                continue;
            }
            let equal = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
            let before = equal(&mut lines[..index].iter().rev().zip(source[..at].iter().rev()));
            let after = equal(&mut lines[index + 1..].iter().zip(&source[at + 1..]));
            let score = 2 * (before + after) + usize::from(*line == source[at]);
            if best.as_ref().is_none_or(|(best, _)| score > *best) {
                let text = code.lines().nth(index).unwrap_or_default();
                best = Some((score, Place { cell, line: index + 1, text }));
            }
        }
    }
    best.map(|(_, place)| place)
}

/// Returns the line number in `src/lib.rs:LINE:COLUMN`, the compiled source. In a workspace, as the notebooks' launcher makes one,
/// the name of evcxr's crate comes before it. Other locations have none.
pub(crate) fn line_of(location: &str) -> Option<usize> {
    let mut parts = location.rsplitn(3, ':');
    let (_column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    matches!(file, "src/lib.rs" | "ctx/src/lib.rs").then(|| line.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "generated();\nlet v = vec![1];\nv[0];\nmore();\n}\nfn f() {\nv[0];\n}\n";

    #[test]
    fn a_line_is_found_in_the_cell_that_ran_and_in_earlier_ones() {
        let cells = ["let v = vec![1]; v[0];\nmore();", "fn f() {\n    v[0];\n}"];
        let place = find(SOURCE, 4, cells.into_iter()).unwrap();
        assert_eq!(place, Place { cell: 0, line: 2, text: "more();" });
        assert_eq!(find(SOURCE, 7, cells.into_iter()).unwrap(), Place { cell: 1, line: 2, text: "    v[0];" });
        assert_eq!(find(SOURCE, 3, cells.into_iter()).unwrap().cell, 0);
    }

    #[test]
    fn generated_and_missing_lines_are_nowhere() {
        let cells = || ["let v = vec![1];"].into_iter();
        assert_eq!(find(SOURCE, 1, cells()), None);
        assert_eq!(find(SOURCE, 0, cells()), None);
        assert_eq!(find(SOURCE, 100, cells()), None);
    }

    #[test]
    fn only_the_compiled_source_has_lines_of_cells() {
        assert_eq!(line_of("src/lib.rs:12:5"), Some(12));
        assert_eq!(line_of("ctx/src/lib.rs:12:5"), Some(12));
        assert_eq!(line_of("/registry/tch/src/lib.rs:12:5"), None);
        assert_eq!(line_of("src/lib.rs"), None);
    }
}
