//! Positions in a cell: Jupyter counts characters, evcxr bytes.

/// The byte at which the character `position` begins; the end for positions behind it.
pub(crate) fn to_byte(code: &str, position: usize) -> usize {
    code.char_indices().nth(position).map_or(code.len(), |(byte, _)| byte)
}

/// The number of characters before a byte.
pub(crate) fn from_byte(code: &str, byte: usize) -> usize {
    code.char_indices().take_while(|(begin, _)| *begin < byte).count()
}

/// The end of the name that `byte` is in or behind.
pub(crate) fn end_of_name(code: &str, byte: usize) -> usize {
    let rest = &code[byte..];
    byte + rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_characters() {
        let code = "größe.le";
        assert_eq!((to_byte(code, 3), to_byte(code, 6), to_byte(code, 99)), (4, 8, code.len()));
        assert_eq!((from_byte(code, 4), from_byte(code, 8), from_byte(code, 99)), (3, 6, 8));
        assert_eq!((end_of_name(code, 2), end_of_name(code, 8), end_of_name(code, 10)), (7, 10, 10));
    }
}
