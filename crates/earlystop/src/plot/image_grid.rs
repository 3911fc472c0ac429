//! Images side by side, with captions.

use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Rect};
use super::colormap::{BLACK, FRAME, MUTED, ink};
use super::{Figure, square, text};
use crate::{Error, Result};
use ndarray::{ArrayBase, Data, Ix3};

/// An image's longer side, in CSS pixels, in a grid of few images.
const IMAGE_SIDE: f64 = 112.0;
const GAP: f64 = 16.0;

/// Draws images in a square grid, black on white, with a caption under each.
///
/// `images` is `[n, height, width]`, pixels 0-255; `captions` has one line for each image, or is empty. Without images
/// the figure says so. Stands in for matplotlib's `imshow(image, cmap="binary")` with `xlabel`.
///
/// # Errors
///
/// If there are captions, but not as many as images, or the images have no pixels.
///
/// ```
/// let images = ndarray::Array3::<u8>::zeros((2, 28, 28));
/// let captions = ["True: 7", "True: 4, Pred: 9"].map(String::from);
/// let figure = earlystop::plot::image_grid(&images, &captions)?;
/// assert!(figure.size().0 < 400);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn image_grid(images: &ArrayBase<impl Data<Elem = u8>, Ix3>, captions: &[String]) -> Result<Figure> {
    let (len, height, width) = images.dim();
    if !captions.is_empty() && captions.len() != len {
        return Err(Error::data("captions", format!("{len}, one for each image"), captions.len()));
    }
    if len == 0 {
        return Ok(no_images());
    }
    if height == 0 || width == 0 {
        return Err(Error::data("images", "[n, height, width] with pixels", format!("{:?}", images.shape())));
    }

    let (columns, rows) = square(len);
    let zoom = IMAGE_SIDE.min(720.0 / columns as f64) / height.max(width) as f64;
    // Whole CSS pixels for each of the image's, where there is room for one: all come out equally wide.
    let zoom = if zoom > 1.0 { zoom.floor() } else { zoom };
    let (image_width, image_height) = (zoom * width as f64, zoom * height as f64);
    let widest = captions.iter().map(|caption| text::width(caption, LABEL_SIZE)).fold(image_width, f64::max).ceil();
    let caption_height = if captions.is_empty() { 0.0 } else { 1.6 * LABEL_SIZE };
    let (step_x, step_y) = (widest + GAP, image_height + caption_height.round() + GAP);

    let mut canvas =
        Canvas::new(2.0 * MARGIN + columns as f64 * step_x - GAP, 2.0 * MARGIN + rows as f64 * step_y - GAP);
    for (i, image) in images.outer_iter().enumerate() {
        let left = MARGIN + (i % columns) as f64 * step_x + ((widest - image_width) / 2.0).round();
        let frame = Rect::new(left, MARGIN + (i / columns) as f64 * step_y, image_width, image_height);
        canvas.image((frame.x, frame.y), zoom, image.mapv(|pixel| ink(f32::from(pixel) / 255.0)).view());
        canvas.frame(frame, 1.0, FRAME);
        if let Some(caption) = captions.get(i) {
            let middle = (frame.center().0, frame.bottom() + 1.0 + LABEL_SIZE);
            canvas.text(caption, middle, Align::Center, LABEL_SIZE, BLACK);
        }
    }
    let shown = if captions.is_empty() { String::new() } else { format!(": {}", captions.join("; ")) };
    Ok(canvas.finish(format!("{len} images{shown}")))
}

fn no_images() -> Figure {
    let text = "no images";
    let mut canvas = Canvas::new(2.0 * MARGIN + text::width(text, LABEL_SIZE), 2.0 * MARGIN + LABEL_SIZE);
    canvas.text(text, (MARGIN, MARGIN + LABEL_SIZE / 2.0), Align::Left, LABEL_SIZE, MUTED);
    canvas.finish(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::figure::tests::{assert_margins_are_white, pixel};
    use ndarray::Array3;

    fn captions(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("True: {}, Pred: 9", i % 10)).collect()
    }

    #[test]
    fn every_number_of_images_fits() {
        for n in [0, 1, 2, 3, 9, 10, 40] {
            let figure = image_grid(&Array3::from_elem((n, 28, 28), 255), &captions(n)).unwrap();
            assert_margins_are_white(&figure);
        }
    }

    #[test]
    fn captions_wider_than_the_images_fit() {
        let caption = "True: ankle boot, Pred: sneaker, and more".to_string();
        assert_margins_are_white(&image_grid(&Array3::zeros((1, 28, 28)), &[caption]).unwrap());
    }

    #[test]
    fn pixels_are_crisp_blocks_of_ink_on_paper() {
        let mut images = Array3::zeros((1, 28, 28));
        images[[0, 0, 1]] = 255;
        let figure = image_grid(&images, &[]).unwrap();
        // Four CSS pixels, eight device pixels for each of the image's.
        let start = 2 * MARGIN as u32;
        assert_eq!(pixel(&figure, start + 7, start), [255; 3]);
        assert_eq!(pixel(&figure, start + 8, start), [0; 3]);
        assert_eq!(pixel(&figure, start + 15, start + 7), [0; 3]);
        assert_eq!(pixel(&figure, start + 16, start), [255; 3]);
    }

    #[test]
    fn wrong_shapes_are_named() {
        let error = image_grid(&Array3::zeros((9, 28, 28)), &captions(8)).unwrap_err().to_string();
        assert_eq!(error, "captions: expected 9, one for each image, found 8");
        let error = image_grid(&Array3::zeros((2, 0, 28)), &[]).unwrap_err().to_string();
        assert_eq!(error, "images: expected [n, height, width] with pixels, found [2, 0, 28]");
    }
}
