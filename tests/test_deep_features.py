"""A linear classifier on features: it finds the rule, never sees a held-out group, and repeats."""

import numpy as np
import pandas as pd
import pytest

from lib.evaluation import prediction_files, priors
from lib.evaluation.scores import point_scores
from lib.features import linear_classifier

CLASSES = ["bcc", "mel", "nv"]
SHARES = [0.15, 0.25, 0.6]


def index(n=240, folds=3, seed=2):
    """Make an index: two images a group, a class each, dealt to folds; row numbers are its own."""
    random = np.random.default_rng(seed)
    groups = np.arange(n) // 2
    labels = random.choice(CLASSES, n // 2, p=SHARES)[groups]
    fold = random.permutation(n // 2)[groups] % folds
    named = [f"g{group:03d}" for group in groups]
    table = pd.DataFrame(
        {
            "image_id": [f"i{i:03d}" for i in range(n)],
            "lesion_id": named,
            "group_id": named,
            "split": "train",
            "label": labels,
            "fold": fold,
        }
    )
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def features(table, strength=2.0, seed=3):
    """Plant the class along three of twenty directions, in noise; scales differ a thousandfold."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(len(table), 20))
    values[:, :3] += strength * np.eye(3)[pd.Categorical(table["label"], CLASSES).codes]
    return (values * np.geomspace(1, 1000, 20) + 5).astype(np.float16)


@pytest.fixture(scope="module")
def table():
    return index()


@pytest.fixture(scope="module")
def classifier(table):
    return linear_classifier.fit(features(table), table["label"], table["group_id"], seed=1)


@pytest.fixture(scope="module")
def crossed_and_groups(table):
    """Cross-validate; note each classifier's groups and the folds that choose its strength."""
    groups, inner = [], []
    fit, inner_folds = linear_classifier.fit, linear_classifier.splits.inner_folds

    def noted_fit(values, labels, group_ids, seed):
        groups.append(set(group_ids))
        return fit(values, labels, group_ids, seed)

    def noted_folds(labels, group_ids, seed, folds):
        dealt = inner_folds(labels, group_ids, seed, folds)
        inner.append([[set(group_ids.iloc[part]) for part in parts] for parts in dealt])
        return dealt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_classifier, "fit", noted_fit)
        patch.setattr(linear_classifier.splits, "inner_folds", noted_folds)
        crossed = linear_classifier.cross_validate(
            "vgg16_linear", features(table), table, CLASSES, seed=1
        )
    return crossed, groups, inner


@pytest.fixture(scope="module")
def crossed(crossed_and_groups):
    return crossed_and_groups[0]


def test_a_planted_rule_is_recovered_on_images_not_seen(classifier):
    unseen = index(seed=8)
    probabilities = linear_classifier.predict(classifier, features(unseen, seed=9), 1, CLASSES)
    right = np.array(CLASSES)[probabilities.argmax(axis=1)] == unseen["label"]
    assert right.mean() > 0.8
    weights = np.abs(classifier[-1].coef_)
    assert weights[:, :3].max(axis=0).min() > weights[:, 3:].max(), "of twenty, the three planted"


def test_features_without_a_rule_give_the_shares_of_the_classes(table):
    noise = features(table, strength=0.0)
    classifier = linear_classifier.fit(noise, table["label"], table["group_id"], seed=1)
    assert classifier[-1].C in linear_classifier.STRENGTHS[:2], "the strongest penalties"
    shares = table["label"].value_counts(normalize=True)[CLASSES]
    probabilities = linear_classifier.predict(classifier, noise, 1, CLASSES)
    np.testing.assert_allclose(probabilities.mean(axis=0), shares, atol=0.01)
    assert probabilities.std(axis=0).max() < 0.08


def test_probabilities_are_posteriors_under_the_training_prior(table, classifier):
    """At the optimum of multinomial logistic regression, the mean prediction is the share."""
    probabilities = linear_classifier.predict(classifier, features(table), 1, CLASSES)
    shares = table["label"].value_counts(normalize=True)[CLASSES]
    np.testing.assert_allclose(probabilities.mean(axis=0), shares, atol=2e-3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_classes_come_in_the_order_that_is_asked_for(table, classifier):
    plain = linear_classifier.predict(classifier, features(table), 1, CLASSES)
    turned = linear_classifier.predict(classifier, features(table), 1, CLASSES[::-1])
    np.testing.assert_allclose(turned, plain[:, ::-1])


def test_the_views_of_an_image_are_averaged(table, classifier):
    views = [features(table, seed=seed) for seed in (3, 4)]
    each = [classifier.predict_proba(view.astype(np.float32)) for view in views]
    assert list(classifier.classes_) == CLASSES
    averaged = linear_classifier.predict(classifier, np.concatenate(views), 2, CLASSES)
    assert averaged.shape == (len(table), 3)
    product = each[0] * each[1]  # the mean of logarithms is the logarithm of the geometric mean
    expected = np.sqrt(product) / np.sqrt(product).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)
    assert abs(averaged - each[0]).max() > 0.1


def test_no_group_crosses_between_training_and_what_is_held_out(table, crossed_and_groups):
    crossed, trained, inner = crossed_and_groups
    assert (len(trained), [len(folds) for folds in inner]) == (3, [3, 3, 3])
    for fold, groups in enumerate(trained):
        held_out = set(crossed.loc[crossed["fold"] == fold, "group_id"])
        assert held_out and not held_out & groups
        assert held_out | groups == set(table["group_id"])
        for train, chosen_by in inner[fold]:
            assert chosen_by and not train & chosen_by
            assert train | chosen_by == groups


def test_every_image_is_predicted_once_by_the_fold_it_lies_in(table, crossed):
    prediction_files.cross_validation_schema(CLASSES).validate(crossed)
    columns = ["image_id", "lesion_id", "group_id", "label", "fold"]
    found = crossed[columns].sort_values("image_id", ignore_index=True)
    expected = table[columns].sort_values("image_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert set(crossed["model"]) == {"vgg16_linear"}


def test_a_fold_s_answers_are_those_of_a_classifier_trained_on_the_others(table, crossed):
    values, inside = features(table), table[table["fold"] != 2]
    classifier = linear_classifier.fit(
        values[inside.index], inside["label"], inside["group_id"], seed=1
    )
    outside = table[table["fold"] == 2]
    expected = linear_classifier.predict(classifier, values[outside.index], 1, CLASSES)
    found = crossed[crossed["fold"] == 2].set_index("image_id").loc[outside["image_id"]]
    np.testing.assert_allclose(found[[f"prob_{name}" for name in CLASSES]], expected, atol=1e-6)
    prior = inside["label"].value_counts(normalize=True)[CLASSES].to_numpy()
    chosen = priors.change_prior(expected, prior, np.full(3, 1 / 3)).argmax(axis=1)
    assert (found["predicted_equal_priors"] == np.array(CLASSES)[chosen]).mean() > 0.99
    assert (found["predicted_equal_priors"] != found["predicted"]).any(), "the rules differ"


def test_features_that_only_name_the_group_teach_nothing(table):
    """With a group on both sides, every image would be predicted right."""
    values = np.random.default_rng(5).normal(size=(len(table) // 2, 60))
    own = values[table["group_id"].str[1:].astype(int)]
    crossed = linear_classifier.cross_validate("vgg16_linear", own, table, CLASSES, seed=1)
    scores = point_scores(crossed)
    assert scores["balanced_accuracy"] < 0.5


def test_the_same_seed_gives_the_same_classifier(table, classifier):
    again = linear_classifier.fit(features(table), table["label"], table["group_id"], seed=1)
    np.testing.assert_array_equal(again[-1].coef_, classifier[-1].coef_)
    np.testing.assert_array_equal(again[-1].intercept_, classifier[-1].intercept_)


def test_a_class_of_one_group_is_refused(table):
    few = table[(table["label"] != "bcc") | (table["group_id"] == table["group_id"][0])]
    few = pd.concat([few, table[table["label"] == "bcc"].iloc[:1]])
    with pytest.raises(ValueError, match="class bcc has 1 group of training images"):
        linear_classifier.fit(features(few), few["label"], few["group_id"], seed=1)
