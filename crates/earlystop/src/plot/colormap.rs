//! Colors for values.

/// Red, green, blue.
pub(super) type Color = [u8; 3];

pub(super) const BLACK: Color = [0, 0, 0];
pub(super) const WHITE: Color = [255, 255, 255];
/// Lines around things, axes.
pub(super) const FRAME: Color = [70, 70, 70];
/// Lines across a plot, at the ticks.
pub(super) const GRID: Color = [228, 228, 228];
/// Curves in the background.
pub(super) const FAINT: Color = [165, 175, 190];
/// Behind curves, where iterations are marked.
pub(super) const SHADE: Color = [228, 238, 248];
/// The label next to the point.
pub(super) const MUTED: Color = [105, 105, 105];
/// Values that are not finite.
pub(super) const NOT_A_VALUE: Color = [250, 210, 90];

/// Colors for curves and marks that color-blind people can distinguish: [Okabe and Ito's][okabe-ito].
///
/// [okabe-ito]: https://jfly.uni-koeln.de/color/
pub(super) const DISTINCT: [Color; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

/// [ColorBrewer]'s red-blue scale, safe for color-blind eyes, with blue for negative values and pure white for zero.
///
/// [ColorBrewer]: https://colorbrewer2.org/#type=diverging&scheme=RdBu&n=11
const BLUE_WHITE_RED: [Color; 11] = [
    [5, 48, 97],
    [33, 102, 172],
    [67, 147, 195],
    [146, 197, 222],
    [209, 229, 240],
    WHITE,
    [253, 219, 199],
    [244, 165, 130],
    [214, 96, 77],
    [178, 24, 43],
    [103, 0, 31],
];

/// ColorBrewer's blues, with pure white for zero.
const BLUES: [Color; 9] = [
    WHITE,
    [222, 235, 247],
    [198, 219, 239],
    [158, 202, 225],
    [107, 174, 214],
    [66, 146, 198],
    [33, 113, 181],
    [8, 81, 156],
    [8, 48, 107],
];

/// Gives white for 0.0, reds up to 1.0, blues down to -1.0.
pub(super) fn blue_white_red(value: f32) -> Color {
    gradient(&BLUE_WHITE_RED, (f64::from(value) + 1.0) / 2.0)
}

/// Gives white for 0.0, ever darker blues up to 1.0.
pub(super) fn blues(value: f64) -> Color {
    gradient(&BLUES, value)
}

/// Gives white for 0.0, black for 1.0: ink on paper.
pub(super) fn ink(value: f32) -> Color {
    gradient(&[WHITE, BLACK], value.into())
}

/// Gives black or white, whichever is easier to read on a color.
pub(super) fn text_on([r, g, b]: Color) -> Color {
    let luminance = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    if luminance > 140.0 { BLACK } else { WHITE }
}

/// Blends evenly spaced colors at a position 0.0-1.0; values beyond have the colors of the ends.
fn gradient(stops: &[Color], position: f64) -> Color {
    if position.is_nan() {
        return NOT_A_VALUE;
    }
    let position = position.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let below = (position as usize).min(stops.len() - 2);
    let share = position - below as f64;
    let blend = |channel: usize| {
        let (from, to) = (f64::from(stops[below][channel]), f64::from(stops[below + 1][channel]));
        (from + share * (to - from)).round() as u8
    };
    [blend(0), blend(1), blend(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_white_and_signs_are_mirrored() {
        assert_eq!(blue_white_red(0.0), WHITE);
        assert_eq!(blue_white_red(-1.0), BLUE_WHITE_RED[0]);
        assert_eq!(blue_white_red(1.0), BLUE_WHITE_RED[10]);
        let ([red, _, _], [_, _, blue]) = (blue_white_red(0.6), blue_white_red(-0.6));
        assert!(red > 200 && blue > 190, "{red} {blue}");
        assert_eq!((blues(0.0), ink(0.0), ink(1.0)), (WHITE, WHITE, BLACK));
    }

    #[test]
    fn values_beyond_the_scale_have_the_colors_of_its_ends() {
        assert_eq!(blue_white_red(7.0), blue_white_red(1.0));
        assert_eq!(blue_white_red(f32::NEG_INFINITY), blue_white_red(-1.0));
        assert_eq!(blue_white_red(f32::NAN), NOT_A_VALUE);
    }

    #[test]
    fn text_contrasts_with_its_background() {
        assert_eq!(text_on(blues(0.0)), BLACK);
        assert_eq!(text_on(blues(1.0)), WHITE);
    }
}
