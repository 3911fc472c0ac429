"""The tutorial's job in Keras on TensorFlow."""

import platform
import os

from protocol import Batches, Data, serve, settings

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

SETTINGS = settings()
VALIDATION_BATCH = 1_000


def network(channels):
    he = keras.initializers.HeNormal
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(channels(16), 5, padding="same", activation="relu", kernel_initializer=he()),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(channels(36), 5, padding="same", activation="relu", kernel_initializer=he()),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(channels(128), activation="relu", kernel_initializer=he()),
            keras.layers.Dense(10),
        ]
    )


class Worker:
    def __init__(self):
        data = Data(SETTINGS)
        self.train_images, self.train_labels = data.train_images[..., np.newaxis], data.train_labels
        self.validation_images, self.validation_labels = data.validation_images[..., np.newaxis], data.validation_labels
        self.batches = Batches(data.order, SETTINGS.batch)
        self.model = network(SETTINGS.channels)
        self.model.compile(
            optimizer=keras.optimizers.Adam(1e-4),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def train(self, iterations):
        for _ in range(iterations):
            batch = self.batches.take()
            self.model.train_on_batch(self.train_images[batch], self.train_labels[batch])

    def validate(self):
        logits = self.model.predict(self.validation_images, batch_size=VALIDATION_BATCH, verbose=0)
        return float(np.mean(logits.argmax(1) == self.validation_labels))

    def save(self):
        self.model.save(SETTINGS.saves / "state.keras")


if SETTINGS.threads is not None:
    tf.config.threading.set_intra_op_parallelism_threads(SETTINGS.threads)
serve(
    Worker(),
    threads=tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
    validation_batch=VALIDATION_BATCH,
    versions={"Keras": keras.__version__, "TensorFlow": tf.__version__, "Python": platform.python_version()},
)
