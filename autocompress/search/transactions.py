"""Trials in the tables of an Optuna storage: one transaction each, where its own calls take one for every value."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial
from sqlalchemy import insert


@contextmanager
def _transaction(study: optuna.Study) -> Iterator[Any]:
    """A session of the study's storage, whose errors are Optuna's own."""
    storage = getattr(study._storage, "_backend", study._storage)
    if not isinstance(storage, optuna.storages.RDBStorage):
        raise TypeError(f"study {study.study_name!r} lies in a {type(storage).__name__}: put it in a database")
    with _create_scoped_session(storage.scoped_session) as session:
        yield session


def add_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Write a trial that begins now, which is given its number and its id."""
    with _transaction(study) as session:
        # Numbers count the trials of a study: whoever else adds one has to wait.
        models.StudyModel.find_or_raise_by_id(study._study_id, session, for_update=True)
        row: Any = models.TrialModel(study_id=study._study_id, state=trial.state, datetime_start=trial.datetime_start)
        session.add(row)
        session.flush()  # which gives it its id
        row.number = row.count_past_trials(session)
        parameters = [
            {
                "trial_id": row.trial_id,
                "param_name": name,
                "param_value": domain.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(domain),
            }
            for name, domain in trial.distributions.items()
        ]
        _insert(session, models.TrialParamModel, parameters)
        _set(session, models.TrialUserAttributeModel, row.trial_id, trial.user_attrs)
        number, trial_id = row.number, row.trial_id
    trial.number, trial._trial_id = number, trial_id


def end_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Write how a running trial ended: its attributes, constraints, values and state, and when.

    Raises UpdateFinishedTrialError where it has ended already.
    """
    with _transaction(study) as session:
        row: Any = models.TrialModel.find_or_raise_by_id(trial._trial_id, session, for_update=True)
        study._storage.check_trial_is_updatable(row.trial_id, row.state)
        _set(session, models.TrialUserAttributeModel, row.trial_id, trial.user_attrs)
        _set(session, models.TrialSystemAttributeModel, row.trial_id, trial.system_attrs)
        values = [models.TrialValueModel.value_to_stored_repr(value) for value in trial.values or []]
        rows = [
            {"trial_id": row.trial_id, "objective": objective, "value": value, "value_type": kind}
            for objective, (value, kind) in enumerate(values)
        ]
        _insert(session, models.TrialValueModel, rows)
        trial.datetime_complete = datetime.now()
        row.state, row.datetime_complete = trial.state, trial.datetime_complete


def _set(session: Any, kind: Any, trial_id: int, values: Mapping[str, Any]) -> None:
    """Attributes of a trial, in the place of those of the same names."""
    there = {row.key: row for row in session.query(kind).filter(kind.trial_id == trial_id)}
    for key, row in there.items():
        if key in values:
            row.value_json = json.dumps(values[key])
    new = values.keys() - there.keys()
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(values[key])} for key in values if key in new]
    _insert(session, kind, rows)


def _insert(session: Any, kind: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(kind.__table__), rows)
