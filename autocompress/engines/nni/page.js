// Runs in NNI's page before its own code, as NNI has no setting for these: its icons are a font on Microsoft's servers,
// and its hyper-parameter view draws an axis for every key of the parameters and the results, constant ones too.
'use strict';
(function () {
    const base = location.pathname.replace(/\/(oview|detail|experiment)?\/?$/, '');
    window.FabricConfig = { fontBaseUrl: '', iconBaseUrl: `${base}/autocompress/` };

    // What a reader compares trials by, at most eight; the others are behind the button "Add/Remove axes".
    const AXES = [
        'search/requested_rate',
        'search/start_from',
        'algorithm',
        'default',
        'accuracy',
        'accuracy_margin',
        'parameters_removed',
        'bytes',
    ];

    function values(trial) {
        const parameters = JSON.parse(trial.hyperParameters[0]).parameters;
        const metrics = trial.finalMetricData ? JSON.parse(JSON.parse(trial.finalMetricData.slice(-1)[0].data)) : {};
        return Object.assign({}, parameters, metrics);
    }

    function differing() {
        const request = new XMLHttpRequest();
        request.open('GET', `${base}/api/v1/nni/trial-jobs`, false);
        request.send();
        const trials = JSON.parse(request.responseText).filter((trial) => trial.hyperParameters).map(values);
        const known = (axis) => trials.map((trial) => trial[axis]).filter((value) => value !== undefined);
        const differs = (axis) => new Set(known(axis)).size > 1;
        return AXES.filter(differs);
    }

    document.addEventListener('DOMContentLoaded', () => {
        const style = document.createElement('style');
        style.textContent = '.parcoords, .parcoords svg { overflow: visible !important; }'; // long names of axes
        document.head.append(style);
    });

    // The page asks for the axes that its reader has chosen; where there is no choice yet, it is made here.
    const getItem = Storage.prototype.getItem;
    Storage.prototype.getItem = function (key) {
        const chosen = getItem.call(this, key);
        if (chosen !== null || !String(key).endsWith('_paraColumns')) {
            return chosen;
        }
        try {
            const axes = differing();
            const kept = { time: Date.now(), expire: 60000, value: JSON.stringify(axes), isSelectall: false };
            return axes.length > 1 ? JSON.stringify(kept) : null;
        } catch {
            return null;
        }
    };
})();
