"""A linear classifier on the features of a pretrained network (paper, section C)."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lib.data import splits
from lib.evaluation import prediction_files, priors

#: Inverse regularisation strengths to choose from, by cross-validation in this many folds.
STRENGTHS = [0.0003, 0.001, 0.003, 0.01]
FOLDS = 3


def fit(features: np.ndarray, labels: pd.Series, groups: pd.Series, seed: int) -> Pipeline:
    """Train a multinomial logistic regression on standardised features.

    Classes are not weighted, so the probabilities are posteriors under the class frequencies of
    these images. Regularisation strength is chosen by log loss in a cross-validation over groups.

    Parameters
    ----------
    features : ndarray of float, shape (n, values)
    labels, groups : Series of str, n values
        Class and group_id of each image.
    """
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        {"logisticregression__C": STRENGTHS},
        scoring="neg_log_loss",
        cv=splits.inner_folds(labels, groups, seed, FOLDS),
    )
    with threadpool_limits(1):  # matrices this small are multiplied faster by one thread
        return search.fit(np.asarray(features, np.float32), labels).best_estimator_


def predict(
    classifier: Pipeline, features: np.ndarray, views: int, classes: list[str]
) -> np.ndarray:
    """Return probabilities, averaged over the views of each image (`priors.average_views`).

    Parameters
    ----------
    features : ndarray of float, shape (views * n, values)
        View v of the i-th image is at v * n + i.

    Returns
    -------
    ndarray of float, shape (n, classes)
    """
    probabilities = classifier.predict_proba(np.asarray(features, np.float32))
    order = [list(classifier.classes_).index(name) for name in classes]
    return priors.average_views(probabilities[:, order].reshape(views, -1, len(classes)))


def cross_validate(
    name: str, features: np.ndarray, index: pd.DataFrame, classes: list[str], seed: int
) -> pd.DataFrame:
    """Predict every image with a classifier that was trained on the other folds.

    Parameters
    ----------
    name : str
        The name of the model in the table.
    features : ndarray of float, shape (n, values)
        Row i is row i of the index.

    Returns
    -------
    DataFrame
        `prediction_files.cross_validation_schema(classes)`: posteriors under the class
        frequencies of the training images of each fold.
    """
    parts = []
    for fold in sorted(index["fold"].unique()):
        inside, outside = index[index["fold"] != fold], index[index["fold"] == fold]
        classifier = fit(features[inside.index], inside["label"], inside["group_id"], seed)
        probabilities = predict(classifier, features[outside.index], 1, classes)
        prior = priors.fold_prior(index, fold, classes)
        table = prediction_files.prediction_table(name, outside, probabilities, classes, prior)
        parts.append(table.assign(fold=fold))
    return pd.concat(parts, ignore_index=True)
