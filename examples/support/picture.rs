//! Pictures in linear steps from 0 to 1, three values a pixel.

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Clone)]
pub struct Picture {
    /// A multiple of 8, as the height.
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<f32>,
}

impl Picture {
    /// A sun that sets behind mountains, and its path on the water.
    pub fn sunset(width: usize, height: usize) -> Self {
        let (w, h) = (width as f32, height as f32);
        let pixels = (0..width * height).map(|i| ((i % width) as f32 / w, (i / width) as f32 / h));
        let aspect = w / h;
        let rgb = pixels.flat_map(|(x, y)| Self::sunset_at(x, y, aspect)).collect();
        Self { width, height, rgb }
    }

    fn sunset_at(x: f32, y: f32, aspect: f32) -> [f32; 3] {
        const HORIZON: f32 = 0.62;
        let mix = |a: [f32; 3], b: [f32; 3], t: f32| std::array::from_fn(|k| a[k] + (b[k] - a[k]) * t.clamp(0.0, 1.0));
        let far = ((x - 0.62) * aspect).hypot(y - 0.42);
        let ridge = |base: f32, height: f32, f: f32| {
            base - height * ((f * x).sin() + 0.5 * (2.3 * f * x + 1.0).sin() + 0.25 * (6.1 * f * x).sin())
        };
        let sky = mix([0.12, 0.16, 0.42], [0.98, 0.55, 0.25], y / HORIZON);
        let glow = mix(sky, [1.0, 0.85, 0.45], 0.9 * (-9.0 * far).exp());
        if y > HORIZON {
            let depth = (y - HORIZON) / (1.0 - HORIZON);
            let water = mix([0.75, 0.38, 0.25], [0.05, 0.09, 0.22], 1.6 * depth);
            let ripple = 0.5 + 0.5 * (180.0 * depth.sqrt() + 9.0 * (14.0 * x).sin()).sin();
            let path = (-((x - 0.62) * aspect / (0.07 + 0.15 * depth)).powi(2)).exp();
            mix(water, [1.0, 0.8, 0.5], 0.85 * path * ripple)
        } else if y > ridge(0.56, 0.05, 11.0) {
            [0.09, 0.07, 0.13]
        } else if y > ridge(0.46, 0.08, 6.0) {
            mix([0.30, 0.20, 0.34], [0.55, 0.32, 0.35], (y - 0.35) / 0.25)
        } else if far < 0.11 {
            [1.0, 0.95, 0.75]
        } else {
            glow
        }
    }

    /// This one on the left, the other on the right.
    pub fn beside(&self, right: &Self) -> Self {
        let rows = self.rgb.chunks(3 * self.width).zip(right.rgb.chunks(3 * right.width));
        let rgb = rows.flat_map(|(left, right)| [left, right].concat()).collect();
        Self { width: self.width + right.width, height: self.height, rgb }
    }

    /// The bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = self.rgb.iter().map(|c| (255.0 * c.clamp(0.0, 1.0)).round() as u8).collect();
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(bytes)
    }
}

/// The peak signal-to-noise ratio in decibels of a picture that is off by `residual`.
pub fn psnr(residual: &[f32]) -> f64 {
    let squares: f64 = residual.iter().map(|r| f64::from(r * r)).sum();
    -10.0 * (squares / residual.len() as f64).log10()
}
