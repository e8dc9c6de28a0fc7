// Loaded into NNI's manager before its own code (NODE_OPTIONS=--require), because NNI has no setting for these:
// its server listens on every interface without authentication and tells everyone its secret path in its 404 page, in
// the process list and in files that all users can read, it answers to web pages of others, its routes leave a trial's
// folder, a tuner has only 10 seconds to connect, nobody hears how a trial was killed, parameters go to whichever
// trial asks first, the first trial waits for an import of NNI, and its page takes icons from the network.
'use strict';
const children = require('child_process');
const fs = require('fs');
const http = require('http');
const net = require('net');
const path = require('path');

const HOST = '127.0.0.1';
const TUNER_PATIENCE_MS = 120000;

// What the manager writes has the secret path in it: only its owner may read it. Trials get the umask of before.
const usersUmask = process.umask(0o077);

// The secret path comes by the environment, which only the owner can read, not by the command line, which all can.
function argument(name) {
    const index = process.argv.indexOf(name);
    return index < 0 ? undefined : process.argv[index + 1];
}
const port = Number(argument('--port'));
const prefix = process.env.AUTOCOMPRESS_URL_PREFIX;
delete process.env.AUTOCOMPRESS_URL_PREFIX;
if (prefix) {
    process.argv.push('--url-prefix', prefix);
    if (argument('--action') !== 'view') {
        process.argv.push('--tuner-command-channel', `ws://localhost:${port}/${prefix}/tuner`);
    }
}

// Before its first trial NNI imports all of itself, in a Python of its own, to say which version it is; this says the
// same from what pip has written.
const VERSIONS = `
import importlib.metadata, importlib.util, json, sys
print(json.dumps({
    "nniVersion": importlib.metadata.version("nni"),
    "nniPath": importlib.util.find_spec("nni").submodule_search_locations[0],
    "pythonVersion": "{}.{}.{}-{}-{}".format(*sys.version_info),
    "pythonPath": sys.executable,
}))`;

// NNI drops the signal that killed a trial; it is written beside what the trial printed. Where TensorBoard is started
// from the page it would listen on every interface.
const spawn = children.spawn;
children.spawn = function (...args) {
    if (Array.isArray(args[1]) && args[1][1] === 'nni.tools.nni_manager_scripts.collect_version_info') {
        args[1] = ['-c', VERSIONS];
    }
    const options = args[args.length - 1] || {};
    const env = options.env || {};
    const isTrial = env.NNI_TRIAL_JOB_ID && env.NNI_OUTPUT_DIR;
    if (isTrial && process.platform !== 'win32') {
        fs.closeSync(fs.openSync(path.join(env.NNI_OUTPUT_DIR, 'trial.log'), 'a')); // NNI's, opened by the trial
        args[0] = `umask ${usersUmask.toString(8)}; exec ${args[0]}`;
    } else if (args[0] === 'tensorboard' && Array.isArray(args[1])) {
        args[1] = args[1].map((argument) => argument.replace('--bind_all', `--host=${HOST}`));
    }
    const child = spawn.apply(this, args);
    if (isTrial) {
        child.on('exit', (code, signal) => {
            if (signal) {
                fs.writeFileSync(path.join(env.NNI_OUTPUT_DIR, 'trial.signal'), signal);
            }
        });
    }
    return child;
};

// Ids and names of files come from the URL, and NNI joins them to a path as they are.
function requireId(id) {
    if (!/^\w+$/.test(id)) {
        throw new Error(`a trial's id must consist of letters and digits; got ${JSON.stringify(id)}`);
    }
}
const PRINTED = { stdout: 'trial.stdout', stderr: 'trial.stderr' };
function keepInFolder(service) {
    const { getTrialFile, getTrialOutputLocalPath } = service;
    service.getTrialFile = async function (id, name) {
        requireId(id);
        const folder = await fs.promises.realpath(await this.v3.downloadTrialDirectory(id));
        const file = await fs.promises.realpath(path.join(folder, PRINTED[name] || name));
        if (!file.startsWith(folder + path.sep)) {
            throw new Error(`a trial's file must be in the trial's folder; ${JSON.stringify(name)} is not`);
        }
        return getTrialFile.call(this, id, name);
    };
    service.getTrialOutputLocalPath = async function (id) {
        requireId(id);
        return getTrialOutputLocalPath.call(this, id);
    };
}

// NNI gives the oldest parameters to the trial that asks first, and tells the end of a trial with those it was made for.
// Here a trial is given its own; none asks before it has been started, which takes it longer than this.
function bindParameters(service) {
    const submit = service.submitTrialJob;
    service.submitTrialJob = async function (form) {
        const trial = await submit.call(this, form);
        const waiting = this.parameters.indexOf(form.hyperParameters.value);
        if (waiting >= 0) {
            this.parameters.splice(waiting, 1);
            this.allocatedParameters.set(trial.id, form.hyperParameters.value);
        }
        return trial;
    };
}
const Module = require('module');
const load = Module._load;
Module._load = function (...args) {
    const loaded = load.apply(this, args);
    if (loaded && loaded.V3asV1 && !loaded.V3asV1.ownParameters) {
        loaded.V3asV1.ownParameters = true;
        bindParameters(loaded.V3asV1.prototype);
        keepInFolder(loaded.V3asV1.prototype);
    }
    return loaded;
};

// The manager's children (trials) are none of our business.
delete process.env.NODE_OPTIONS;

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
    const options = args[0];
    if (options !== null && typeof options === 'object') {
        if (options.path === undefined && options.fd === undefined && !options._handle) {
            args[0] = Object.assign({}, options, { host: HOST });
        }
    } else if (typeof args[1] === 'string') {
        args[1] = HOST;
    } else if (typeof options !== 'string' || /^\d+$/.test(options)) {
        args.splice(1, 0, HOST);
    }
    return listen.apply(this, args);
};

function isOurs(server) {
    const address = server.address();
    return Boolean(prefix) && Boolean(address) && address.port === port;
}

// Netron is a web site that NNI hands on: its scripts would have all the rights of this page.
function outside(url) {
    const below = url.startsWith(`/${prefix}`) ? url.slice(prefix.length + 1) : undefined;
    return below === undefined || !/^($|[/?])/.test(below) || /^\/+netron($|[/?])/i.test(decoded(below));
}

function decoded(url) {
    try {
        return decodeURIComponent(url);
    } catch {
        return url;
    }
}

// Whoever has learned the path cannot use it from a web page of another origin, nor by a name that is made to lead here
// (DNS rebinding): such a name is never one of these. Ports are free, as SSH may forward another one.
const LOOPBACK = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/i;
function stranger(request) {
    const { host, origin, 'sec-fetch-site': site, 'sec-fetch-dest': destination } = request.headers;
    if (!LOOPBACK.test(host || '')) {
        return 'Host must be localhost, 127.0.0.1 or [::1]';
    }
    const same = [`http://${host}`, `https://${host}`].map((each) => each.toLowerCase());
    if (origin !== undefined && !same.includes(origin.toLowerCase())) {
        return 'Origin must be this page';
    }
    const isLink = request.method === 'GET' && destination === 'document';
    if (site !== undefined && site !== 'same-origin' && site !== 'none' && !isLink) {
        return 'the request must come from this page';
    }
    return undefined;
}

function refusal(server, request) {
    if (!isOurs(server)) {
        return undefined;
    }
    if (outside(request.url)) {
        return { status: 404, reason: 'Not Found', text: 'Not Found' };
    }
    const rule = stranger(request);
    return rule && { status: 403, reason: 'Forbidden', text: `Forbidden: ${rule}` };
}

// The page runs a script of ours first, and takes its icons from here.
const PAGES = /^\/?(oview|detail|experiment|index\.html)?$/;
const ICONS = /^\/autocompress\/[\w.-]+\.woff$/;
function ourAnswer(server, request) {
    if (!isOurs(server) || request.method !== 'GET') {
        return undefined;
    }
    const place = request.url.slice(prefix.length + 1).split('?')[0];
    if (ICONS.test(place)) {
        return { type: 'font/woff', content: fs.readFileSync(path.join(__dirname, 'icons.woff')) };
    }
    if (!PAGES.test(place)) {
        return undefined;
    }
    const file = path.resolve('static', 'index.html');
    if (!fs.existsSync(file)) {
        return undefined;
    }
    const script = fs.readFileSync(path.join(__dirname, 'page.js'), 'utf8');
    const page = fs.readFileSync(file, 'utf8');
    return { type: 'text/html; charset=utf-8', content: page.replace('<script', () => `<script>${script}</script><script`) };
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, other, ...rest) {
    const refused = event === 'request' || event === 'upgrade' ? refusal(this, request) : undefined;
    if (event === 'request') {
        other.setHeader('Referrer-Policy', 'no-referrer');
        if (refused) {
            other.writeHead(refused.status, { 'Content-Type': 'text/plain', 'Connection': 'close' });
            other.end(refused.text);
            return true;
        }
        const answer = ourAnswer(this, request);
        if (answer) {
            other.writeHead(200, { 'Content-Type': answer.type });
            other.end(answer.content);
            return true;
        }
    }
    if (event === 'upgrade' && refused) {
        other.end(`HTTP/1.1 ${refused.status} ${refused.reason}\r\nConnection: close\r\n\r\n`);
        return true;
    }
    return emit.call(this, event, request, other, ...rest);
};

// Other machines reach this server through their SSH connection, by the same port on their own 127.0.0.1, so that it
// need not be open to anybody. And NNI installs itself from the package index at every start, even where it is.
if (process.env.AUTOCOMPRESS_OVER_SSH) {
    const { Client } = require(require.resolve('ssh2', { paths: [process.cwd()] }));
    const connect = Client.prototype.connect;
    Client.prototype.connect = function (config) {
        this.on('ready', () => this.forwardIn(HOST, port, () => {}));
        this.on('tcp connection', (_, accept) => {
            const stream = accept();
            const socket = net.connect(port, HOST);
            socket.on('error', () => stream.destroy());
            stream.on('error', () => socket.destroy());
            stream.pipe(socket).pipe(stream);
        });
        return connect.call(this, config);
    };
    const exec = Client.prototype.exec;
    Client.prototype.exec = function (command, ...rest) {
        const install = / -m pip install nni --upgrade$/;
        if (install.test(command)) {
            const python = command.replace(install, '');
            command = `${python} -c "import nni" || ${python} -m pip install nni==3.0`;
        } else if (command.includes('nni_manager_scripts.create_trial_keeper_dir ')) {
            command = `umask 077; ${command}`; // the secret path is written below it
        }
        return exec.call(this, command, ...rest);
    };
}

const setTimer = global.setTimeout;
global.setTimeout = function (callback, delay, ...rest) {
    const isTunerTimer = delay === 10000 && String(callback).includes('Tuner did not connect');
    return setTimer(callback, isTunerTimer ? TUNER_PATIENCE_MS : delay, ...rest);
};
const promisified = require('util').promisify.custom;
global.setTimeout[promisified] = setTimer[promisified];
