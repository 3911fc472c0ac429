//! Looks at the figures of a notebook: whole PNG files of a size that a page can show.
//! The format: <https://www.w3.org/TR/png/#5Chunk-layout>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Length 13, then the type of the first chunk.
const HEADER: &[u8] = b"\0\0\0\rIHDR";
/// Length 0, the type of the last chunk and its CRC.
const END: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";

/// Width and height in pixels that a figure may have.
const SIDE: std::ops::RangeInclusive<u32> = 50..=4000;

/// Checks one `image/png` output, base64 as Jupyter keeps it.
pub(super) fn check(base64: &str) -> Result<(), String> {
    let text: String = base64.split_whitespace().collect();
    let png = STANDARD.decode(text).map_err(|error| format!("the figure is not base64: {error}"))?;
    let rest = png.strip_prefix(SIGNATURE).ok_or("the figure does not start as a PNG")?;
    let header = rest.strip_prefix(HEADER).ok_or("the figure's PNG has no IHDR chunk")?;
    let [width, height] = sides(header).ok_or("the figure's PNG ends in its header")?;
    if !png.ends_with(END) {
        return Err("the figure's PNG is cut short".to_owned());
    }
    if SIDE.contains(&width) && SIDE.contains(&height) {
        return Ok(());
    }
    Err(format!("the figure is {width}x{height} pixels, expected {} to {} each", SIDE.start(), SIDE.end()))
}

fn sides(header: &[u8]) -> Option<[u32; 2]> {
    let (width, rest) = header.split_first_chunk()?;
    let height = rest.first_chunk()?;
    Some([u32::from_be_bytes(*width), u32::from_be_bytes(*height)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, end: &[u8]) -> String {
        let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
        STANDARD.encode([SIGNATURE, HEADER, &sides, b"\x08\x02\0\0\0crc.", end].concat())
    }

    #[test]
    fn a_whole_figure_is_accepted_wherever_its_base64_breaks() {
        let figure = png(800, 600, END);
        assert_eq!(check(&figure), Ok(()));
        let (start, rest) = figure.split_at(20);
        assert_eq!(check(&format!("{start}\n{rest}\n")), Ok(()));
    }

    #[test]
    fn other_things_are_refused() {
        for (figure, message) in [
            (png(800, 600, b""), "cut short"),
            (png(0, 600, END), "0x600 pixels"),
            (png(800, 100_000, END), "800x100000 pixels"),
            (STANDARD.encode(b"GIF89a"), "does not start as a PNG"),
            (STANDARD.encode(SIGNATURE), "no IHDR"),
            (STANDARD.encode([SIGNATURE, HEADER, b"\0\0"].concat()), "ends in its header"),
            ("?".to_owned(), "not base64"),
        ] {
            assert!(check(&figure).unwrap_err().contains(message), "{message}");
        }
    }
}
