//! A drawn figure: its pixels, put together with others, saved and shown.

use super::encode::{self, PIXEL_RATIO};
use crate::error::io_error;
use crate::{Error, Result, display};
use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

/// A drawn figure.
///
/// A notebook shows it as a cell's last expression, or by [`Figure::show`].
#[derive(Clone, PartialEq, Eq)]
pub struct Figure {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    alt: String,
    missing: BTreeSet<char>,
}

impl Figure {
    /// Takes over pixels: `rgb` is `[height, width, 3]`, sizes in device pixels. `missing` are the characters that no font has.
    pub(super) fn new(width: u32, height: u32, rgb: Vec<u8>, alt: String, missing: BTreeSet<char>) -> Self {
        Self { width, height, rgb, alt, missing }
    }

    /// Returns the alternative text, for readers who do not see the figure: its title, or what it shows.
    pub fn alt(&self) -> &str {
        &self.alt
    }

    /// Returns the characters of the figure's text that no font has, each once. They are drawn as boxes.
    ///
    /// [`add_font`](super::add_font) adds a font that has them. In a notebook, a line under the figure names them;
    /// [`save`](Figure::save) refuses such a figure.
    ///
    /// ```
    /// let images = ndarray::Array3::<u8>::zeros((2, 28, 28));
    /// let figure = earlystop::plot::image_grid(&images, &["cat 猫".to_owned(), "dog 犬".to_owned()])?;
    /// assert_eq!(figure.missing_characters(), "犬猫");
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn missing_characters(&self) -> String {
        self.missing.iter().collect()
    }

    /// Gives the width and height as shown, in CSS pixels; the PNG has twice as many pixels each way.
    pub fn size(&self) -> (u32, u32) {
        (self.width.div_ceil(PIXEL_RATIO), self.height.div_ceil(PIXEL_RATIO))
    }

    /// Encodes the figure as a PNG that states its physical size: 192 dots per inch.
    pub fn png(&self) -> Vec<u8> {
        encode::png(self.width, self.height, &self.rgb)
    }

    /// Saves the figure as a PNG file. A file of that name is replaced only when the new one is complete.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or if no font has some of the characters: the message names them. To save the boxes that
    /// stand for them nevertheless, write what [`png`](Figure::png) returns.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if !self.missing.is_empty() {
            let expected = "text in characters that a font has (earlystop::plot::add_font(path) adds a font)";
            return Err(Error::data(path.display().to_string(), expected, self.missing_characters()));
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let written = fs::write(&temporary, self.png()).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|source| {
            fs::remove_file(&temporary).ok();
            io_error(path, "write")(source)
        })
    }

    /// Shows the figure under the running notebook cell, from anywhere in its code; outside a notebook, does nothing.
    ///
    /// With the published evcxr kernel, a cell shows only one figure, the last; see [`display`].
    pub fn show(&self) {
        display::show_png(&self.png(), self.size().0, &self.alt);
        if !self.missing.is_empty() {
            let missing = self.missing_characters();
            display::note(&format!(
                "Note: no font has {missing}: add one that has them by earlystop::plot::add_font(path)"
            ));
        }
    }

    /// Shows the figure in place of the one that was shown there before: a curve that grows during a training.
    pub fn show_in(&self, live: &mut display::Live) {
        live.show_png(&self.png(), self.size().0, &self.alt);
    }

    /// Shows the figure as a notebook cell's last expression: the evcxr kernel calls it.
    pub fn evcxr_display(&self) {
        self.show();
    }

    /// Puts figures side by side, their upper edges in line.
    pub fn beside(figures: &[Self]) -> Self {
        let width = figures.iter().map(|figure| figure.width).sum();
        let height = figures.iter().map(|figure| figure.height).max().unwrap_or(0);
        let mut whole = Self::blank(width, height);
        let mut x = 0;
        for figure in figures {
            whole.paste(figure, x, 0);
            x += figure.width;
        }
        whole
    }

    /// Puts figures below one another, their left edges in line.
    pub fn stack(figures: &[Self]) -> Self {
        let width = figures.iter().map(|figure| figure.width).max().unwrap_or(0);
        let height = figures.iter().map(|figure| figure.height).sum();
        let mut whole = Self::blank(width, height);
        let mut y = 0;
        for figure in figures {
            whole.paste(figure, 0, y);
            y += figure.height;
        }
        whole
    }

    /// Puts a heading above the figure, in its middle; the heading's alternative text is that of both.
    pub(super) fn below(&self, heading: &Self) -> Self {
        let mut whole = Self::blank(heading.width, heading.height);
        whole.paste(heading, 0, 0);
        whole.paste(self, (heading.width - self.width) / 2, heading.height - self.height);
        whole.alt.clone_from(&heading.alt);
        whole
    }

    /// An empty figure is one white pixel: a PNG has no smaller size.
    fn blank(width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let rgb = vec![255; 3 * width as usize * height as usize];
        Self { width, height, rgb, alt: String::new(), missing: BTreeSet::new() }
    }

    fn paste(&mut self, other: &Self, x: u32, y: u32) {
        let row_bytes = 3 * other.width as usize;
        for (i, row) in other.rgb.chunks_exact(row_bytes).enumerate() {
            let start = 3 * ((y as usize + i) * self.width as usize + x as usize);
            self.rgb[start..start + row_bytes].copy_from_slice(row);
        }
        if !self.alt.is_empty() && !other.alt.is_empty() {
            self.alt.push_str("; ");
        }
        self.alt.push_str(&other.alt);
        self.missing.extend(&other.missing);
    }
}

impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size();
        write!(f, "Figure({width} x {height})")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn pixel(figure: &Figure, x: u32, y: u32) -> [u8; 3] {
        let start = 3 * (y as usize * figure.width as usize + x as usize);
        figure.rgb[start..start + 3].try_into().unwrap()
    }

    /// What is cut off at an edge leaves ink there. An edge of 4 CSS pixels must be white.
    pub(crate) fn assert_margins_are_white(figure: &Figure) {
        let (edge, &Figure { width, height, .. }) = (8, figure);
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let inside = (edge..width - edge).contains(&x) && (edge..height - edge).contains(&y);
            assert!(inside || pixel(figure, x, y) == [255; 3], "{figure:?} has ink at {x}, {y}");
        }
    }

    fn filled(width: u32, height: u32, value: u8) -> Figure {
        let rgb = vec![value; 3 * width as usize * height as usize];
        Figure::new(width, height, rgb, format!("filled with {value}"), BTreeSet::new())
    }

    #[test]
    fn a_figure_with_boxes_for_characters_is_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cat.png");
        let message = filled(4, 6, 10).titled("猫 cat").save(&path).unwrap_err().to_string();
        assert!(message.ends_with("(earlystop::plot::add_font(path) adds a font), found 猫"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        filled(4, 6, 10).titled("cat\n").save(&path).unwrap();
    }

    #[test]
    fn the_alternative_text_is_the_title_or_what_the_parts_show() {
        let figures = [filled(4, 6, 10), filled(2, 8, 20).titled("Twenty")];
        assert_eq!(figures[0].alt(), "filled with 10");
        assert_eq!(Figure::beside(&figures).alt(), "filled with 10; Twenty");
        assert_eq!(Figure::stack(&figures).titled("Both").alt(), "Both");
    }

    #[test]
    fn characters_that_no_font_has_are_reported_by_every_figure_with_them() {
        let figure = filled(4, 6, 10).titled("猫");
        assert_eq!(figure.missing_characters(), "猫");
        let both = [figure, filled(2, 2, 0).titled("犬 猫")];
        assert_eq!([Figure::beside(&both), Figure::stack(&both)].map(|whole| whole.missing_characters()), ["犬猫"; 2]);
        assert_eq!(filled(4, 6, 10).titled("cat").missing_characters(), "");
    }

    #[test]
    fn figures_stand_beside_and_below_each_other() {
        let figures = [filled(4, 6, 10), filled(2, 8, 20)];
        let beside = Figure::beside(&figures);
        assert_eq!((beside.width, beside.height), (6, 8));
        assert_eq!([(3, 0), (4, 7), (0, 7)].map(|(x, y)| pixel(&beside, x, y)[0]), [10, 20, 255]);
        let stack = Figure::stack(&figures);
        assert_eq!((stack.width, stack.height), (4, 14));
        assert_eq!([(3, 5), (1, 6), (2, 6)].map(|(x, y)| pixel(&stack, x, y)[0]), [10, 20, 255]);
        assert_eq!(Figure::beside(&[]).size(), (1, 1));
    }

    #[test]
    fn a_title_wider_than_its_figure_fits() {
        let figure = filled(40, 40, 255).titled("Filters of layer_conv1 after 5,800 iterations");
        assert_margins_are_white(&figure);
        assert!(figure.size().0 > 300);
    }

    #[test]
    fn saving_replaces_a_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("figure.png");
        filled(2, 2, 0).save(&path).unwrap();
        filled(2, 2, 9).save(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), filled(2, 2, 9).png());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        let error = filled(2, 2, 0).save(dir.path().join("none/figure.png")).unwrap_err().to_string();
        assert!(error.contains("none/figure.png: cannot write: "), "{error}");
    }
}
